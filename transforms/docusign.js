// Docusign Connect (JSON SIM): https://developers.docusign.com/platform/webhooks/connect/json-sim-event-model
//
//   name  docusign/envelope.completed, docusign/recipient.completed, docusign/template.created, …: the event
//         (recipient-finish-later becomes recipient.finish_later)
//   id    made of the event, its envelope (or template), its recipient and the time, the same on each retry:
//         Docusign sends no id
//   ts    generatedDateTime, when the event was made
//   data  the body as it came: event.data.data.envelopeId, event.data.data.envelopeSummary when the configuration
//         includes it; without the recipients' access codes. Leave documents out of the configuration: one of
//         some megabytes, as base64, makes the event too large for Inngest.
// XML and the older aggregate JSON tell the state of an envelope instead of what happened, and are refused here.
var SECRETS = ["accessCode"];

function transform(evt, headers, queryParams, raw) {
  if (!evt || typeof evt.event !== "string" || !evt.data) {
    throw new Error("this is no Docusign event: it has no event or no data (choose JSON with individual messages)");
  }
  var ts = Date.parse(evt.generatedDateTime);
  return {
    id: idOf(evt),
    name: `docusign/${evt.event.toLowerCase().replace("-", ".").replace(/-/g, "_")}`,
    ts: isNaN(ts) ? undefined : ts,
    data: JSON.parse(JSON.stringify(evt, withoutSecrets)),
  };
}

function idOf(evt) {
  var what = evt.data.envelopeId || evt.data.templateId;
  if (!what || !evt.generatedDateTime) {
    return undefined;
  }
  return ["docusign", evt.event, what, evt.data.recipientId, evt.generatedDateTime].filter(Boolean).join("/");
}

function withoutSecrets(key, value) {
  return SECRETS.indexOf(key) < 0 ? value : undefined;
}
