// Svix: https://docs.svix.com/receiving/introduction
//
// For any service that sends through Svix. What is in the body is the service's own choice: most send
// {type, data, timestamp}, some name the type eventType or event_type.
//
//   name  svix/<type>; copy this file and put the service's name in place of "svix"
//   id    the header svix-id, the same on each retry
//   ts    the event's own timestamp, where it is a text; else the time of receipt
//   data  the event's data; a body without such an object is passed on whole
function transform(evt, headers, queryParams, raw) {
  var service = "svix";
  if (!isObject(evt)) {
    throw new Error("the body is not a JSON object");
  }
  var type = evt.type || evt.eventType || evt.event_type || "webhook.received";
  var id = headers["Svix-Id"] || headers["Webhook-Id"]; // Svix sends either
  var ts = typeof evt.timestamp === "string" ? Date.parse(evt.timestamp) : NaN;
  return {
    id: id && `${service}/${id}`,
    name: `${service}/${type}`,
    ts: isNaN(ts) ? undefined : ts,
    data: isObject(evt.data) ? evt.data : evt,
  };
}

function isObject(value) {
  return value !== null && typeof value === "object" && !Array.isArray(value);
}
