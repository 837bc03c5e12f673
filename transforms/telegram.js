// Telegram: https://core.telegram.org/bots/api#update
//
//   name  telegram/message, telegram/edited_message, telegram/callback_query, telegram/inline_query, …: the member
//         that the update holds beside its id
//   id    update_id, the same on each retry, and the chat (or query, poll, user) that it is about: update_id counts per
//         bot, and several bots may share an Inngest environment
//   ts    the message's date, or that of its edit (in seconds); presses of a button and the like hold no time
//   data  the update as it came: event.data.message.text, event.data.callback_query.data
function transform(evt, headers, queryParams, raw) {
  var kind = evt && evt.update_id && kindOf(evt);
  if (!kind) {
    throw new Error("this is no Telegram update: it has no update_id or nothing beside it");
  }
  var seconds = evt[kind].edit_date || evt[kind].date;
  return {
    id: ["telegram", evt.update_id, whereOf(evt[kind])].filter(Boolean).join("/"),
    name: `telegram/${kind}`,
    ts: seconds ? seconds * 1000 : undefined,
    data: evt,
  };
}

function whereOf(about) {
  var place = about.chat || about.user || about.from || {};
  return about.id || about.poll_id || place.id;
}

function kindOf(update) {
  return Object.keys(update).filter(function (key) {
    return key !== "update_id" && update[key] !== null && typeof update[key] === "object";
  })[0];
}
