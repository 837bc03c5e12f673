// Lemon Squeezy: https://docs.lemonsqueezy.com/help/webhooks/event-types
//
//   name  lemonsqueezy/order.created, lemonsqueezy/subscription.payment_success, lemonsqueezy/license_key.updated, …:
//         the event_name with a dot after what it is about
//   id    the event, the object and when that was changed, with the webhook_id where there is one: all of them are
//         the same on a retry. (One purchase causes several events; they differ in their names.)
//   ts    when the object was changed (`updated_at`)
//   data  the body as it came: event.data.data.attributes is the order, subscription, …, event.data.meta.custom_data
//         what you gave the checkout
function transform(evt, headers, queryParams, raw) {
  if (!evt || !evt.meta || typeof evt.meta.event_name !== "string" || !evt.data) {
    throw new Error("this is no Lemon Squeezy event: it has no meta.event_name or no data");
  }
  var changed = evt.data.attributes ? evt.data.attributes.updated_at : undefined;
  var ts = Date.parse(changed);
  var parts = [evt.meta.event_name, evt.data.id, changed, evt.meta.webhook_id].filter(Boolean);
  return {
    id: changed || evt.meta.webhook_id ? `lemonsqueezy/${parts.join("/")}` : undefined,
    name: `lemonsqueezy/${nameOf(evt.meta.event_name)}`,
    ts: isNaN(ts) ? undefined : ts,
    data: evt,
  };
}

// subscription_payment_success → subscription.payment_success
function nameOf(event) {
  return event.replace(/^(license_key|[a-z]+)_/, "$1.");
}
