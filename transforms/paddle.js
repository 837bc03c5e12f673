// Paddle Billing: https://developer.paddle.com/webhooks/overview
//
//   name  paddle/transaction.completed, paddle/subscription.past_due, paddle/payment_method.saved, …: the event_type
//   id    event_id, the same on each retry and when the notification is replayed; notification_id is not
//   ts    when it happened (`occurred_at`)
//   data  the event as it came: event.data.data is the transaction, subscription, customer, …
function transform(evt, headers, queryParams, raw) {
  if (!evt || typeof evt.event_type !== "string" || !evt.event_id) {
    throw new Error("this is no Paddle event: it has no event_type or no event_id");
  }
  var ts = Date.parse(evt.occurred_at);
  return {
    id: `paddle/${evt.event_id}`,
    name: `paddle/${evt.event_type}`,
    ts: isNaN(ts) ? undefined : ts,
    data: evt,
  };
}
