// WorkOS: https://workos.com/docs/events
//
//   name  workos/dsync.user.created, workos/connection.activated, workos/user.created, …: the event
//   id    the event's id, the same on each retry
//   ts    when the event was made
//   data  the event as it came: event.data.data is the user, group, connection, …
function transform(evt, headers, queryParams, raw) {
  if (!evt || typeof evt.event !== "string" || !evt.data) {
    throw new Error("this is no WorkOS event: it has no event or no data");
  }
  var ts = Date.parse(evt.created_at);
  return {
    id: evt.id && `workos/${evt.id}`,
    name: `workos/${evt.event}`,
    ts: isNaN(ts) ? undefined : ts,
    data: evt,
  };
}
