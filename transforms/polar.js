// Polar: https://polar.sh/docs/integrate/webhooks/events
//
//   name  polar/order.paid, polar/subscription.canceled, polar/customer.state_changed, …: the type
//   id    the header webhook-id, the same on each retry
//   ts    when the event was made (`timestamp`)
//   data  the body as it came: event.data.data is the order, subscription, … A checkout loses its client_secret and
//         its url, which holds the same secret.
function transform(evt, headers, queryParams, raw) {
  if (!evt || typeof evt.type !== "string" || !evt.data) {
    throw new Error("this is no Polar event: it has no type or no data");
  }
  var id = headers["Webhook-Id"];
  var ts = Date.parse(evt.timestamp);
  return {
    id: id && `polar/${id}`,
    name: `polar/${evt.type}`,
    ts: isNaN(ts) ? undefined : ts,
    data: evt.data.client_secret ? Object.assign({}, evt, { data: withoutSecret(evt.data) }) : evt,
  };
}

function withoutSecret(checkout) {
  return Object.assign({}, checkout, { client_secret: undefined, url: undefined });
}
