// Zendesk: https://developer.zendesk.com/api-reference/webhooks/event-types/webhook-event-types/
//
// Two kinds of webhook send to a URL: one that is subscribed to events, and one that a trigger or automation calls,
// whose body somebody has written in Zendesk.
//
//   name  zendesk/ticket.created, zendesk/user.deleted, zendesk/article.published, …: the event's type;
//         zendesk/trigger.fired for the others
//   id    the event's id; for the others the invocation's, which only a header tells. Both are the same on each retry.
//   ts    when it happened, which only events tell
//   data  the body as it came: event.data.detail is the ticket, user, …, event.data.event what has changed
var TYPE = "zen:event-type:";

function transform(evt, headers, queryParams, raw) {
  if (!evt || typeof evt !== "object" || Array.isArray(evt)) {
    throw new Error("this is no Zendesk event: the body is no JSON object");
  }
  if (typeof evt.type === "string" && evt.type.indexOf(TYPE) === 0) {
    return subscribed(evt);
  }
  var invocation = headers["X-Zendesk-Webhook-Invocation-Id"];
  if (!invocation) {
    throw new Error("this is no Zendesk event: it has neither a type nor the header X-Zendesk-Webhook-Invocation-Id");
  }
  return { id: `zendesk/${invocation}`, name: "zendesk/trigger.fired", data: evt };
}

function subscribed(evt) {
  var ts = Date.parse(evt.time);
  return {
    id: evt.id && `zendesk/${evt.id}`,
    name: `zendesk/${evt.type.slice(TYPE.length).toLowerCase().replace(/[^a-z0-9_.]/g, "_")}`,
    ts: isNaN(ts) ? undefined : ts,
    data: evt,
  };
}
