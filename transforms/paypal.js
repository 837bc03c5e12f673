// PayPal: https://developer.paypal.com/api/rest/webhooks/event-names/
//
//   name  paypal/payment.capture.completed, paypal/billing.subscription.activated, paypal/checkout.order.approved, …:
//         the event's type in small letters, with an underscore for a dash
//   id    the event's id (WH-…), the same on each retry
//   ts    when the event was made (create_time)
//   data  the event as it came: event.data.resource is the object, event.data.resource_type says which
function transform(evt, headers, queryParams, raw) {
  if (!evt || !evt.id || !evt.event_type) {
    throw new Error("this is no PayPal event: it has no id or no event_type");
  }
  var ts = Date.parse(evt.create_time);
  return {
    id: `paypal/${evt.id}`,
    name: `paypal/${evt.event_type.toLowerCase().split("-").join("_")}`,
    ts: isNaN(ts) ? undefined : ts,
    data: evt,
  };
}
