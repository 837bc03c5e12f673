// Front, application webhooks: https://dev.frontapp.com/docs/application-webhooks
//
//   name  front/inbound_received, front/outbound_sent, front/conversation_archived, front/new_comment_added, …: the type
//   id    the event's id (evt_…), the same on each retry
//   ts    when it happened (`emitted_at` is in seconds, with a fraction)
//   data  the body as it came: event.data.payload is the event with its conversation, source and target,
//         event.data.authorization.id the company
// The request that Front sends when the URL is saved (type sync) never comes here: the relay answers it.
function transform(evt, headers, queryParams, raw) {
  if (!evt || !evt.type || !evt.payload) {
    throw new Error("this is no event of a Front application: it has no type or no payload");
  }
  return {
    id: evt.payload.id && `front/${evt.payload.id}`,
    name: `front/${evt.type}`,
    ts: evt.payload.emitted_at ? evt.payload.emitted_at * 1000 : undefined,
    data: evt,
  };
}
