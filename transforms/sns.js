// Amazon SNS: https://docs.aws.amazon.com/sns/latest/dg/http-notification-json.html
//
//   name  sns/notification, or sns/unsubscribe_confirmation when somebody ended the subscription
//   id    MessageId, the same on each retry
//   ts    Timestamp: when the message was published
//   data  the envelope (TopicArn, Subject, MessageAttributes, …) with `Message` as what its JSON says, where it is an
//         object or a list, and else as the text it is. Left out are the signature, and the token and the URLs with
//         which anybody could end or renew the subscription.
// A SubscriptionConfirmation is answered by the relay and never comes here.
function transform(evt, headers, queryParams, raw) {
  if (!evt || !evt.Type || !evt.MessageId) {
    throw new Error("this is no SNS message: it has no Type or no MessageId");
  }
  if (evt.Type === "SubscriptionConfirmation") {
    return null;
  }
  return {
    id: `sns/${evt.MessageId}`,
    name: `sns/${snakeCase(evt.Type)}`,
    ts: timeOf(evt.Timestamp),
    data: Object.assign({}, evt, {
      Message: parsed(evt.Message),
      Signature: undefined,
      SignatureVersion: undefined,
      SigningCertURL: undefined,
      SubscribeURL: undefined,
      Token: undefined,
      UnsubscribeURL: undefined,
    }),
  };
}

// "42" and "true" are JSON too, and were meant as text.
function parsed(message) {
  try {
    var value = JSON.parse(message);
    return value !== null && typeof value === "object" ? value : message;
  } catch (error) {
    return message;
  }
}

// UnsubscribeConfirmation → unsubscribe_confirmation
function snakeCase(name) {
  return name.replace(/([a-z0-9])([A-Z])/g, "$1_$2").toLowerCase();
}

function timeOf(text) {
  var ms = Date.parse(text);
  return isNaN(ms) ? undefined : ms;
}
