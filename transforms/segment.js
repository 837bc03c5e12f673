// Segment: https://segment.com/docs/connections/spec/
//
//   name  segment/track.order_completed, segment/track.signed_up, …: for a track call the event that your site names,
//         in small letters with underscores; segment/identify, segment/page, segment/screen, segment/group and
//         segment/alias for the other calls
//   id    messageId, the same on each retry
//   ts    when it happened
//   data  the call as it came: event.data.userId, event.data.properties or event.data.traits
function transform(evt, headers, queryParams, raw) {
  if (!evt || typeof evt.type !== "string") {
    throw new Error("this is no Segment call: it has no type");
  }
  var event = evt.type === "track" && snake(evt.event);
  var ts = Date.parse(evt.timestamp);
  return {
    id: evt.messageId && `segment/${evt.messageId}`,
    name: event ? `segment/track.${event}` : `segment/${snake(evt.type)}`,
    ts: isNaN(ts) ? undefined : ts,
    data: evt,
  };
}

// Order Completed, orderCompleted → order_completed. Empty when nothing of it is a Latin letter or a digit: the name is
// segment/track then, and event.data.event tells which.
function snake(text) {
  return String(text || "")
    .replace(/([a-z0-9])([A-Z])/g, "$1_$2")
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, "_")
    .replace(/^_+|_+$/g, "")
    .slice(0, 200);
}
