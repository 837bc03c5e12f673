// Slack: https://docs.slack.dev/apis/events-api, /interactivity, /interactivity/implementing-slash-commands
//
// Three kinds of request come to one URL:
//   events         JSON          slack/message, slack/app_mention, slack/reaction_added: the inner event's type
//   slash commands a form        slack/slash_command
//   interactivity  a form with   slack/block_actions, slack/view_submission, slack/shortcut: the type in
//                  JSON in it    its field `payload`
// The request url_verification never comes here: the relay answers it.
//
//   id    event_id, the same on each retry; for the other two the trigger_id, which is new each time
//   ts    event_time (in seconds) for events; the others hold no time
//   data  the request as it came, without `token` (a secret of old, of no use here). Of an event that is the
//         envelope: event.data.event.text, event.data.team_id. A message that was changed, or that a bot wrote,
//         is slack/message too: look at event.data.event.subtype and bot_id before you answer one.
function transform(evt, headers, queryParams, raw) {
  if (!evt) {
    throw new Error("the body is neither JSON nor a form");
  }
  if (evt.ssl_check) {
    return null; // Slack looks whether the URL of a slash command has a certificate
  }
  if (Array.isArray(evt.payload)) {
    return interaction(JSON.parse(evt.payload[0]));
  }
  if (Array.isArray(evt.command)) {
    return command(evt);
  }
  // event_callback holds an event; app_rate_limited and the like are told by the envelope's own type.
  var type = evt.event ? evt.event.type : evt.type;
  if (!type) {
    throw new Error("this is no Slack event: it has no type");
  }
  return {
    id: evt.event_id && `slack/${evt.event_id}`,
    name: `slack/${type}`,
    ts: evt.event_time ? evt.event_time * 1000 : undefined,
    data: withoutToken(evt),
  };
}

function interaction(payload) {
  if (!payload || !payload.type) {
    throw new Error("this is no Slack interaction: its payload has no type");
  }
  return {
    id: payload.trigger_id && `slack/${payload.trigger_id}`,
    name: `slack/${payload.type}`,
    data: withoutToken(payload),
  };
}

function command(form) {
  var fields = {};
  Object.keys(form).forEach(function (field) {
    fields[field] = form[field][0]; // each field comes once, as a list of one
  });
  return {
    id: fields.trigger_id && `slack/${fields.trigger_id}`,
    name: "slack/slash_command",
    data: withoutToken(fields),
  };
}

function withoutToken(data) {
  return Object.assign({}, data, { token: undefined });
}
