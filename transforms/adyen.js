// Adyen: https://docs.adyen.com/development-resources/webhooks/webhook-types
//
// A request holds a list of items, mostly one; each becomes an event.
//
//   name  adyen/authorisation.succeeded, adyen/authorisation.failed, adyen/refund.succeeded, …: the event code, and
//         whether `success` is "true"
//   id    pspReference, event code, success and eventDate, all the same on a retry: Adyen has no id for the event,
//         and a payment may meet the same one twice
//   ts    eventDate
//   data  the item as it came, with the envelope's `live` ("true" or "false") and without the signature. Only
//         references, merchant account, amount, event code and success are signed: trust no other field too much
function transform(evt, headers, queryParams, raw) {
  if (!evt || !Array.isArray(evt.notificationItems)) {
    throw new Error("this is no Adyen event: it has no notificationItems");
  }
  return evt.notificationItems.map(function (wrapped) {
    return event(wrapped && wrapped.NotificationRequestItem, evt.live);
  });
}

function event(item, live) {
  if (!item || !item.eventCode) {
    throw new Error("this is no Adyen event: an item has no eventCode");
  }
  var outcome = String(item.success) === "true" ? "succeeded" : "failed";
  return {
    id: item.pspReference && idOf(item),
    name: `adyen/${item.eventCode.toLowerCase()}.${outcome}`,
    ts: timeOf(item.eventDate),
    data: Object.assign({ live: live }, item, { additionalData: withoutSignature(item.additionalData) }),
  };
}

function idOf(item) {
  return ["adyen", item.pspReference, item.eventCode, item.success, item.eventDate].filter(Boolean).join("/");
}

function withoutSignature(additionalData) {
  return additionalData && Object.assign({}, additionalData, { hmacSignature: undefined });
}

function timeOf(text) {
  var ms = Date.parse(text);
  return isNaN(ms) ? undefined : ms;
}
