// Standard Webhooks: https://github.com/standard-webhooks/standard-webhooks
//
// For any service that follows the specification: the body is {type, timestamp, data}.
//
//   name  webhook/<type>; copy this file and put the service's name in place of "webhook"
//   id    the header webhook-id, the same on each retry
//   ts    the event's own timestamp, where there is one
//   data  the event's data; a body without such an object is passed on whole
function transform(evt, headers, queryParams, raw) {
  var service = "webhook";
  if (!evt || !evt.type) {
    throw new Error("the body has no type");
  }
  var id = headers["Webhook-Id"];
  var ts = Date.parse(evt.timestamp);
  return {
    id: id && `${service}/${id}`,
    name: `${service}/${evt.type}`,
    ts: isNaN(ts) ? undefined : ts,
    data: isObject(evt.data) ? evt.data : evt,
  };
}

function isObject(value) {
  return value !== null && typeof value === "object" && !Array.isArray(value);
}
