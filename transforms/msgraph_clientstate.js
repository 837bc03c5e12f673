// Microsoft Graph: https://learn.microsoft.com/graph/change-notifications-overview
//
// One request may hold several notifications; each becomes an event of its own.
//
//   name  msgraph/message.created, msgraph/chat_message.deleted, …: the type of the resource and the change;
//         msgraph/resource.updated where no type is named. Of a subscription's own life:
//         msgraph/subscription.reauthorization_required, msgraph/subscription.removed, msgraph/subscription.missed
//   id    the subscription's and the notification's id, the same on each retry, where there is one (OneDrive's, for
//         one, have none)
//   ts    not given: a notification holds no time, so it is the time of receipt
//   data  the notification, without clientState, which is the secret. Fetch event.data.resource over Graph's API
// The request with validationToken never comes here: the relay answers it.
function transform(evt, headers, queryParams, raw) {
  if (!evt || !Array.isArray(evt.value)) {
    throw new Error("this is no request of Microsoft Graph: it has no list value");
  }
  return evt.value.map(function (notification) {
    if (!notification) {
      throw new Error("this is no notification of Microsoft Graph: it is empty");
    }
    return {
      id: notification.id && `msgraph/${[notification.subscriptionId, notification.id].filter(Boolean).join("/")}`,
      name: `msgraph/${nameOf(notification)}`,
      data: Object.assign({}, notification, { clientState: undefined }),
    };
  });
}

function nameOf(notification) {
  if (notification.lifecycleEvent) {
    return `subscription.${snake(notification.lifecycleEvent).replace(/^subscription_/, "")}`;
  }
  if (!notification.changeType) {
    throw new Error("this is no notification of Microsoft Graph: it has no changeType and no lifecycleEvent");
  }
  var type = notification.resourceData && notification.resourceData["@odata.type"];
  return `${type ? snake(type.split(".").pop()) : "resource"}.${snake(notification.changeType)}`;
}

// chatMessage, ChatMessage → chat_message
function snake(words) {
  return words.replace(/([a-z0-9])([A-Z])/g, "$1_$2").toLowerCase();
}
