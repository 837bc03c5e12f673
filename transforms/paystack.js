// Paystack: https://paystack.com/docs/payments/webhooks/
//
//   name  paystack/charge.success, paystack/transfer.failed, paystack/subscription.not_renew,
//         paystack/charge.dispute.remind, …: the event
//   id    Paystack's events have none. A charge succeeds once, and so does a transfer succeed, fail or come back: there
//         it is the event, the reference and the object's own id, as a reference is yours and unique in your account
//         only. What may happen again to one object, such as a reminder, has no id.
//   ts    when the charge was paid, or the object changed, where that is said
//   data  the body as it came: event.data.data is the transaction, transfer, subscription, …
var ONCE = /^(charge\.success|transfer\.(success|failed|reversed))$/;

function transform(evt, headers, queryParams, raw) {
  if (!evt || typeof evt.event !== "string" || !evt.data) {
    throw new Error("this is no Paystack event: it has no event or no data");
  }
  var ts = Date.parse(evt.data.paid_at || evt.data.updatedAt || evt.data.updated_at);
  return {
    id: ONCE.test(evt.event) && evt.data.reference ? idOf(evt.event, evt.data) : undefined,
    name: `paystack/${evt.event}`,
    ts: isNaN(ts) ? undefined : ts,
    data: evt,
  };
}

function idOf(event, data) {
  return ["paystack", event, data.reference, data.id].filter(Boolean).join("/");
}
