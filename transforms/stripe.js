// Stripe: https://docs.stripe.com/webhooks
//
//   name  stripe/charge.succeeded, stripe/invoice.paid, …: the event's type
//   id    the Stripe event's id, the same on each of Stripe's retries
//   ts    when Stripe made the event (`created` is in seconds)
//   data  Stripe's `data` (object, previous_attributes), so that a function reads event.data.object,
//         and beside it what belongs to the event rather than to the object
function transform(evt, headers, queryParams, raw) {
  if (!evt || !evt.id || !evt.type) {
    throw new Error("this is no Stripe event: it has no id or no type");
  }
  // Events of the v2 API ("thin" events) name the object instead of holding it, and write the time as text.
  var isThin = typeof evt.created === "string";
  return {
    id: `stripe/${evt.id}`,
    name: `stripe/${evt.type}`,
    ts: isThin ? Date.parse(evt.created) : evt.created * 1000,
    data: Object.assign({}, evt.data, {
      livemode: evt.livemode,
      api_version: evt.api_version,
      account: evt.account, // Connect: the connected account
      request: evt.request, // null when nobody's API call caused it
      related_object: evt.related_object, // thin events
    }),
  };
}
