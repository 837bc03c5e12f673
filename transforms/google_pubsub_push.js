// Google Cloud Pub/Sub, push subscriptions: https://cloud.google.com/pubsub/docs/push
//
// Only for payloads with Pub/Sub's envelope (payload unwrapping off, which is the default).
//
//   name  google_pubsub/message.published, whatever was published; take the name from event.data.message.attributes
//         when you copy this script: it is what tells your own messages apart
//   id    the subscription and the message's id, the same on each redelivery; a message's id is unique in its topic
//   ts    when the message was published
//   data  the envelope, with what was published in place of its base64: event.data.message.data is the object or list
//         when that is JSON, else the text. What is not UTF-8 stays base64.
function transform(evt, headers, queryParams, raw) {
  if (!evt || !evt.message || !evt.message.messageId) {
    throw new Error("this is no Pub/Sub push: it has no message with a messageId");
  }
  var message = evt.message;
  var ts = Date.parse(message.publishTime);
  return {
    id: ["google_pubsub", evt.subscription, message.messageId].filter(Boolean).join("/"),
    name: "google_pubsub/message.published",
    ts: isNaN(ts) ? undefined : ts,
    data: Object.assign({}, evt, {
      message: Object.assign({}, message, { data: published(message.data) }),
    }),
  };
}

function published(base64) {
  var text = textOf(base64);
  try {
    return /^\s*[{[]/.test(text) ? JSON.parse(text) : text;
  } catch (error) {
    return text; // it only looked like JSON
  }
}

// A message of attributes alone has no data.
function textOf(base64) {
  try {
    return base64 && decodeURIComponent(escape(atob(base64))); // atob gives bytes; this reads them as UTF-8
  } catch (error) {
    return base64;
  }
}
