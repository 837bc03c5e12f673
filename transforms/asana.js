// Asana: https://developers.asana.com/docs/webhooks-guide
//
// One request may hold several events; each becomes one of its own. A request without any is a heartbeat, and filtered.
//
//   name  asana/task.changed, asana/task.added, asana/story.removed, …: the type of the object and the action
//   id    not given: Asana's events have none, so the relay makes one of the delivery and the event's position
//   ts    when it happened
//   data  the event: ids only. Fetch event.data.resource.gid over Asana's API
function transform(evt, headers, queryParams, raw) {
  if (!evt || !Array.isArray(evt.events)) {
    throw new Error("this is no Asana request: it has no list of events");
  }
  return evt.events.map(function (event) {
    if (!event) {
      throw new Error("this is no Asana event: it is empty");
    }
    // In requests of old the type stands beside the resource's number.
    var type = event.resource && event.resource.resource_type ? event.resource.resource_type : event.type;
    if (!type || !event.action) {
      throw new Error("this is no Asana event: it has no type or no action");
    }
    var ts = Date.parse(event.created_at);
    return {
      name: `asana/${type}.${event.action}`,
      ts: isNaN(ts) ? undefined : ts,
      data: event,
    };
  });
}
