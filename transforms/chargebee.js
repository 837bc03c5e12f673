// Chargebee: https://apidocs.chargebee.com/docs/api/events
//
//   name  chargebee/subscription.created, chargebee/payment_source.expiring, chargebee/invoice.updated, …: the
//         event_type with a dot after what it is about
//   id    the event's id, the same on each retry
//   ts    when it occurred (`occurred_at` is in seconds)
//   data  the event as it came: event.data.content holds the subscription, customer, invoice, …

// The names of things that are more than one word, the longer one first. Of what is not here, the first word is taken.
var LONG = [
  "omnichannel_subscription_item", "omnichannel_subscription", "item_price", "item_family", "item_entitlement",
  "attached_item", "differential_price", "price_variant", "credit_note", "payment_source", "payment_intent",
  "payment_schedule", "promotional_credits", "unbilled_charges", "coupon_codes", "coupon_set", "contract_term",
  "business_entity", "virtual_bank_account", "pending_invoice", "tax_withheld", "sales_order", "usage_file",
  "hosted_page", "entitlement_overrides",
];
var NOUN = new RegExp(`^(${LONG.join("|")})_`);

function transform(evt, headers, queryParams, raw) {
  if (!evt || typeof evt.event_type !== "string" || !evt.id) {
    throw new Error("this is no Chargebee event: it has no event_type or no id");
  }
  return {
    id: `chargebee/${evt.id}`,
    name: `chargebee/${nameOf(evt.event_type)}`,
    ts: evt.occurred_at ? evt.occurred_at * 1000 : undefined,
    data: evt,
  };
}

// subscription_cancellation_scheduled → subscription.cancellation_scheduled
function nameOf(type) {
  return NOUN.test(type) ? type.replace(NOUN, "$1.") : type.replace("_", ".");
}
