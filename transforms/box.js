// Box: https://developer.box.com/guides/webhooks/v2/
//
//   name  box/file.uploaded, box/folder.created, box/sign_request.completed: the trigger
//   id    the event's id, the same on each retry (BOX-DELIVERY-ID is new each time)
//   ts    created_at: when it happened
//   data  the event as it came: event.data.source is the file or folder, event.data.created_by who did it
function transform(evt, headers, queryParams, raw) {
  if (!evt || evt.type !== "webhook_event" || !evt.trigger) {
    throw new Error("this is no Box event: its type is not webhook_event, or it has no trigger");
  }
  return {
    id: evt.id && `box/${evt.id}`,
    name: `box/${evt.trigger.toLowerCase()}`,
    ts: timeOf(evt.created_at),
    data: evt,
  };
}

function timeOf(text) {
  var ms = Date.parse(text);
  return isNaN(ms) ? undefined : ms;
}
