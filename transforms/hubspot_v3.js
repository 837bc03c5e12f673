// HubSpot: https://developers.hubspot.com/docs/api/webhooks
//
// A request is a list of up to 100 notifications; each becomes an event of its own. They are the same with the
// older signature of the preset hubspot_v1. (hubspot_v2 is for workflows, which send the record itself.)
//
//   name  hubspot/contact.created, hubspot/deal.deleted, hubspot/contact.property_changed, hubspot/company.merged,
//         hubspot/contact.association_changed, hubspot/conversation.new_message, …: the subscription's type
//   id    eventId alone is not unique, so it is the subscription, the type, the object or objects, the time and the
//         eventId: all of them are the same on a retry, while attemptNumber counts up
//   ts    when it happened (`occurredAt` is in milliseconds)
//   data  the notification as it came
var VERBS = {
  creation: "created",
  deletion: "deleted",
  merge: "merged",
  restore: "restored",
  propertyChange: "property_changed",
  associationChange: "association_changed",
  privacyDeletion: "privacy_deleted",
};

function transform(evt, headers, queryParams, raw) {
  if (!Array.isArray(evt)) {
    throw new Error("this is no HubSpot batch: the body is no list");
  }
  return evt.map(function (item) {
    if (!item || !item.subscriptionType) {
      throw new Error("this is no HubSpot notification: it has no subscriptionType");
    }
    return {
      id: item.eventId ? `hubspot/${idOf(item)}` : undefined, // it is 0 in a test
      name: `hubspot/${nameOf(item.subscriptionType)}`,
      ts: item.occurredAt,
      data: item,
    };
  });
}

function idOf(item) {
  var objects = [item.objectId, item.fromObjectId, item.toObjectId, item.propertyName, item.messageId];
  objects.push(item.associationType, item.associationTypeId); // two objects may be associated in several ways
  return [item.subscriptionType, item.subscriptionId]
    .concat(objects, item.occurredAt, item.eventId)
    .filter(Boolean)
    .join(".");
}

// contact.propertyChange → contact.property_changed; what is not in the list: line_item.someChange → some_change
function nameOf(type) {
  return type
    .split(".")
    .map(function (word) {
      return VERBS[word] || word.replace(/([a-z0-9])([A-Z])/g, "$1_$2").toLowerCase();
    })
    .join(".");
}
