// Square: https://developer.squareup.com/docs/webhooks/overview
//
//   name  square/payment.updated, square/invoice.payment_made, square/inventory.count.updated, …: the event's type
//   id    event_id, the same on each retry
//   ts    when Square made the event (`created_at`)
//   data  the event as it came: event.data.data.object holds the payment, customer, …; event.data.merchant_id whose
//         it is
function transform(evt, headers, queryParams, raw) {
  if (!evt || typeof evt.type !== "string" || !evt.event_id) {
    throw new Error("this is no Square event: it has no type or no event_id");
  }
  var ts = Date.parse(evt.created_at);
  return {
    id: `square/${evt.event_id}`,
    name: `square/${evt.type}`,
    ts: isNaN(ts) ? undefined : ts,
    data: evt,
  };
}
