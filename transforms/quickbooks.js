// QuickBooks Online: https://developer.intuit.com/app/developer/qbo/docs/develop/webhooks
//
// One body holds several changes, and each becomes an event. It is a list of CloudEvents, or of the older form, with
// eventNotifications; both make the same names.
//
//   name  quickbooks/customer.created, quickbooks/salesreceipt.updated, quickbooks/invoice.voided, …
//   id    the CloudEvent's id; in the older form, which has none, the company, the record, the operation and the time:
//         all of them are the same when the body is sent again
//   ts    when the record was changed
//   data  the CloudEvent (intuitaccountid is the company, intuitentityid the record), or the older form's entity
//         with the realmId of its company. What is in the record has to be fetched.
var OPERATIONS = {
  Create: "created",
  Update: "updated",
  Delete: "deleted",
  Merge: "merged",
  Void: "voided",
  Emailed: "emailed",
};

function transform(evt, headers, queryParams, raw) {
  if (Array.isArray(evt)) {
    return evt.map(cloudEvent);
  }
  if (!evt || !Array.isArray(evt.eventNotifications)) {
    throw new Error("this is no QuickBooks notification: neither a list of CloudEvents nor eventNotifications");
  }
  var events = [];
  evt.eventNotifications.forEach(function (notification) {
    var change = notification && notification.dataChangeEvent;
    ((change && change.entities) || []).forEach(function (entity) {
      events.push(oldEvent(notification.realmId, entity));
    });
  });
  return events;
}

// qbo.customer.created.v1 → quickbooks/customer.created
function cloudEvent(item) {
  var type = item && /^qbo\.([a-z0-9_]+\.[a-z0-9_]+)/.exec(item.type);
  if (!type || !item.id) {
    throw new Error("this is no QuickBooks CloudEvent: it has no id, or its type does not begin with qbo.");
  }
  return {
    id: `quickbooks/${item.id}`,
    name: `quickbooks/${type[1]}`,
    ts: milliseconds(item.time),
    data: item,
  };
}

function oldEvent(realmId, entity) {
  if (!entity || !entity.name || !entity.operation) {
    throw new Error("this is no QuickBooks entity: it has no name or no operation");
  }
  var key = [realmId, entity.name, entity.id, entity.operation, entity.lastUpdated];
  return {
    id: `quickbooks/${key.filter(Boolean).join("/")}`,
    name: `quickbooks/${entity.name.toLowerCase()}.${OPERATIONS[entity.operation] || entity.operation.toLowerCase()}`,
    ts: milliseconds(entity.lastUpdated),
    data: Object.assign({ realmId: realmId }, entity),
  };
}

// The older form writes -0700 for -07:00, and CloudEvents nine digits of a second's parts.
function milliseconds(text) {
  var ts = Date.parse(String(text).replace(/([+-]\d\d)(\d\d)$/, "$1:$2").replace(/(\.\d{3})\d+/, "$1"));
  return isNaN(ts) ? undefined : ts;
}
