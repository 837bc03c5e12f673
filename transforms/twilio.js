// Twilio: https://www.twilio.com/docs/messaging/guides/webhook-request, /docs/voice/twiml#request-parameters
//
//   name  twilio/message.received, and twilio/message.delivered, twilio/message.failed, … for status callbacks;
//         twilio/call.ringing, twilio/call.in_progress, twilio/call.completed, …; twilio/recording.completed,
//         twilio/transcription.completed
//   id    I-Twilio-Idempotency-Token, the same on each retry; else, where that names one event, the sid and status
//         (a call asks many times while it is in-progress: those requests have no id of their own)
//   ts    Timestamp, which only voice callbacks have
//   data  the form's fields, each as one text. All values are text: NumMedia is "1".
function transform(evt, headers, queryParams, raw) {
  if (!evt && !raw) {
    evt = queryParams; // a webhook whose method is set to GET
  }
  if (!evt) {
    throw new Error("the body is neither a form nor JSON");
  }
  var fields = {};
  Object.keys(evt).forEach(function (name) {
    var value = evt[name];
    fields[name] = Array.isArray(value) && value.length === 1 ? value[0] : value;
  });
  var about = subject(fields);
  var id = headers["I-Twilio-Idempotency-Token"] || about.id;
  var ts = Date.parse(fields.Timestamp);
  return {
    id: id && `twilio/${id}`,
    name: `twilio/${about.kind}.${about.status.toLowerCase().split("-").join("_")}`,
    ts: isNaN(ts) ? undefined : ts,
    data: fields,
  };
}

// What the request is about, the innermost first: a transcription's callback names its recording as well, and that of
// a recording its call.
function subject(fields) {
  var messageSid = fields.MessageSid || fields.SmsSid;
  var status;
  if (fields.TranscriptionSid) {
    status = fields.TranscriptionStatus || "updated";
    // A transcription in real time sends many requests.
    return { kind: "transcription", status: status, id: fields.RecordingSid && `${fields.TranscriptionSid}.${status}` };
  }
  if (fields.RecordingSid) {
    status = fields.RecordingStatus || "completed";
    return { kind: "recording", status: status, id: `${fields.RecordingSid}.${status}` };
  }
  if (messageSid) {
    status = fields.MessageStatus || fields.SmsStatus || "received";
    return { kind: "message", status: status, id: `${messageSid}.${status}` };
  }
  if (fields.CallSid) {
    return { kind: "call", status: fields.CallStatus || "updated", id: undefined };
  }
  throw new Error("the request is about no message, call or recording");
}
