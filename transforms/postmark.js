// Postmark: https://postmarkapp.com/developer/webhooks/webhooks-overview
//
//   name  postmark/delivery, postmark/bounce, postmark/open, postmark/spam_complaint, postmark/subscription_change, …:
//         the RecordType; postmark/inbound for mail that came in, which has none
//   id    MessageID is the message's and the same in all that happens to it, so it is the RecordType, the MessageID,
//         the recipient and the time, for a click the link, and from where one opened or clicked; the ID of a bounce
//         or complaint; an inbound MessageID
//   ts    when it happened, where the record says so
//   data  the record as it came
function transform(evt, headers, queryParams, raw) {
  if (!evt || !(evt.RecordType || evt.FromFull)) {
    throw new Error("this is no Postmark record: it has no RecordType");
  }
  var type = evt.RecordType || "Inbound";
  var time = evt.DeliveredAt || evt.BouncedAt || evt.ReceivedAt || evt.ChangedAt;
  var ts = Date.parse(time);
  return {
    id: idOf(evt, type, time),
    name: `postmark/${snake(type)}`,
    ts: isNaN(ts) ? undefined : ts,
    data: evt,
  };
}

function idOf(evt, type, time) {
  if (evt.ID) {
    return `postmark/${type}.${evt.ID}`;
  }
  if (!evt.MessageID || !(time || type === "Inbound")) {
    return undefined;
  }
  var from = evt.Geo && evt.Geo.IP;
  return ["postmark/" + type, evt.MessageID, evt.Recipient, time, evt.OriginalLink, from].filter(Boolean).join(".");
}

// SpamComplaint → spam_complaint, SMTPApiError → smtp_api_error
function snake(text) {
  return text
    .replace(/([A-Z]+)([A-Z][a-z])/g, "$1_$2")
    .replace(/([a-z0-9])([A-Z])/g, "$1_$2")
    .toLowerCase();
}
