// Webflow: https://developers.webflow.com/data/docs/working-with-webhooks
//
//   name  webflow/form.submitted, webflow/site.published, webflow/ecomm_order.created,
//         webflow/collection_item.changed, …: the trigger's type, with a dot before its verb
//   id    a form submission's own id; a new order's, with its time, as an order's id is short and unique only in its
//         site. The other events have none: an item's id is in each of its changes, so the relay makes one
//   ts    when it happened, where the payload says so
//   data  the request as it came: event.data.payload is the submission, item, page, order, …
function transform(evt, headers, queryParams, raw) {
  if (!evt || !evt.triggerType || !evt.payload) {
    throw new Error("this is no Webflow event: it has no triggerType or no payload");
  }
  var order = evt.payload.acceptedOn && evt.payload.orderId && `${evt.payload.orderId}.${evt.payload.acceptedOn}`;
  var once = { form_submission: evt.payload.id, ecomm_new_order: order }[evt.triggerType];
  return {
    id: once && `webflow/${once}`,
    name: `webflow/${nameOf(evt.triggerType)}`,
    ts: timeOf(evt.triggerType, evt.payload),
    data: evt,
  };
}

// collection_item_created → collection_item.created; three types do not end in a verb of this form
function nameOf(type) {
  var odd = {
    form_submission: "form.submitted",
    site_publish: "site.published",
    ecomm_new_order: "ecomm_order.created",
  };
  return odd[type] || type.replace(/_([a-z]+)$/, ".$1");
}

function timeOf(type, payload) {
  // An order's acceptedOn stays what it was when the order changes later.
  var accepted = type === "ecomm_new_order" ? payload.acceptedOn : undefined;
  var ended = payload.submittedAt || payload.publishedOn || payload.deletedOn || accepted;
  var time = ended || payload.lastUpdated || payload.createdOn;
  var ts = typeof time === "number" ? time : Date.parse(time);
  return isNaN(ts) ? undefined : ts;
}
