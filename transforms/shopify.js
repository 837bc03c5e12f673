// Shopify: https://shopify.dev/docs/apps/build/webhooks
//
//   name  shopify/orders.create, shopify/products.update, …: the topic, with a dot for the slash
//   id    X-Shopify-Webhook-Id, the same on each retry. (X-Shopify-Event-Id is not for this: several topics
//         that one action of the merchant caused have the same.)
//   ts    when Shopify saw the change; a delivery that was retried may come hours later
//   data  the resource, and the shop's domain, which only a header tells. Large ids are exact in
//         admin_graphql_api_id; as numbers they may be rounded above 2^53.
function transform(evt, headers, queryParams, raw) {
  var topic = headers["X-Shopify-Topic"];
  if (!topic) {
    throw new Error("the header X-Shopify-Topic is missing");
  }
  if (!evt) {
    throw new Error("the body is no JSON: choose JSON as the webhook's format, not XML");
  }
  var ts = Date.parse(headers["X-Shopify-Triggered-At"]);
  var delivery = headers["X-Shopify-Webhook-Id"];
  return {
    id: delivery && `shopify/${delivery}`,
    name: `shopify/${topic.split("/").join(".")}`,
    ts: isNaN(ts) ? undefined : ts,
    data: Object.assign({}, evt, { shop_domain: headers["X-Shopify-Shop-Domain"] }),
  };
}
