// Razorpay: https://razorpay.com/docs/webhooks/payloads/
//
//   name  razorpay/payment.captured, razorpay/order.paid, razorpay/payment.dispute.created, …: the event
//   id    the header X-Razorpay-Event-Id, the same on each retry
//   ts    when the event was made (`created_at` is in seconds)
//   data  the event as it came: event.data.payload.payment.entity is the payment; `contains` says what else there is
function transform(evt, headers, queryParams, raw) {
  if (!evt || evt.entity !== "event" || typeof evt.event !== "string") {
    throw new Error("this is no Razorpay event: its entity is no event, or it has no name");
  }
  var id = headers["X-Razorpay-Event-Id"];
  return {
    id: id && `razorpay/${id}`,
    name: `razorpay/${evt.event}`,
    ts: evt.created_at ? evt.created_at * 1000 : undefined,
    data: evt,
  };
}
