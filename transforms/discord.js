// Discord: https://docs.discord.com/developers/events/webhook-events and /interactions/receiving-and-responding
//
// Two kinds of request come to one URL:
//   webhook events  discord/application.authorized, discord/entitlement.create, discord/lobby_message.create, …
//   interactions    discord/interaction.application_command, discord/interaction.message_component,
//                   discord/interaction.modal_submit, discord/interaction.application_command_autocomplete
// Discord's PING never comes here: the relay answers it.
//
//   id    the interaction's id. Webhook events have none: the relay makes one that stays the same.
//   ts    the event's time; an interaction's is in its id
//   data  the request as it came: event.data.event.data is the webhook event's, event.data.data the interaction's.
//         Without `token`, by which anybody can answer for your app.
var INTERACTIONS = {
  2: "application_command",
  3: "message_component",
  4: "application_command_autocomplete",
  5: "modal_submit",
};

function transform(evt, headers, queryParams, raw) {
  if (evt && evt.event && evt.event.type) {
    return webhookEvent(evt);
  }
  if (evt && INTERACTIONS[evt.type]) {
    return interaction(evt);
  }
  throw new Error("this is no Discord event: it has neither an event nor the type of an interaction");
}

function webhookEvent(evt) {
  return {
    // APPLICATION_AUTHORIZED → application.authorized: the verb is the last word
    name: `discord/${evt.event.type.toLowerCase().replace(/_([a-z]+)$/, ".$1")}`,
    ts: timeOf(evt.event.timestamp),
    data: evt,
  };
}

function interaction(evt) {
  return {
    id: evt.id && `discord/${evt.id}`,
    name: `discord/interaction.${INTERACTIONS[evt.type]}`,
    ts: timeOfId(evt.id),
    data: Object.assign({}, evt, { token: undefined }),
  };
}

// Discord writes UTC, with or without the Z.
function timeOf(text) {
  var ts = Date.parse(/(Z|[+-]\d\d:?\d\d)$/.test(text) ? text : `${text}Z`);
  return isNaN(ts) ? undefined : ts;
}

// Above its lowest 22 bits an id holds the milliseconds since 2015.
function timeOfId(id) {
  return /^\d{17,20}$/.test(id) ? Math.floor(Number(id) / 4194304) + 1420070400000 : undefined;
}
