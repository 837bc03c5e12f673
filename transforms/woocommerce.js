// WooCommerce: https://woocommerce.com/document/webhooks/
//
//   name  woocommerce/order.created, woocommerce/product.updated, woocommerce/customer.deleted, …: the topic; a topic
//         of the shop's own is woocommerce/action.woocommerce_add_to_cart
//   id    none of WooCommerce's: X-WC-Webhook-Delivery-ID is the same for all that one webhook sends within a second.
//         WooCommerce does not send again, so the relay's own id is as good: it is made of the delivery.
//   ts    when the order, product, … was changed; what was deleted has only its id
//   data  the order, product, … as it came
function transform(evt, headers, queryParams, raw) {
  var topic = headers["X-Wc-Webhook-Topic"];
  if (!topic && evt && evt.webhook_id) {
    return null; // the ping when the webhook is saved, which says nothing
  }
  if (!topic || !evt) {
    throw new Error("this is no WooCommerce event: the header X-WC-Webhook-Topic or the body is missing");
  }
  var ts = Date.parse(`${evt.date_modified_gmt}Z`); // GMT, and does not say so
  return {
    name: `woocommerce/${topic}`,
    ts: isNaN(ts) ? undefined : ts,
    data: evt,
  };
}
