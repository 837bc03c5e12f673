// Trello: https://developer.atlassian.com/cloud/trello/guides/rest-api/webhooks/
//
//   name  trello/card.create, trello/card.comment, trello/member_to_card.add, …: the action's type (createCard,
//         commentCard, addMemberToCard) with its verb at the end
//   id    the action's id, the same on each retry and in every webhook that sees the action
//   ts    when the action was taken
//   data  the payload as it came: event.data.action is what was done, event.data.model what the webhook watches
function transform(evt, headers, queryParams, raw) {
  var action = evt && evt.action;
  if (!action || !action.id || !action.type) {
    throw new Error("this is no Trello event: it has no action, or one without id or type");
  }
  var ts = Date.parse(action.date);
  return {
    id: `trello/${action.id}`,
    name: `trello/${nameOf(action.type)}`,
    ts: isNaN(ts) ? undefined : ts,
    data: evt,
  };
}

// updateCheckItemStateOnCard → check_item_state_on_card.update
function nameOf(type) {
  var words = type.replace(/([a-z0-9])([A-Z])/g, "$1_$2").toLowerCase();
  return words.replace(/^([a-z0-9]+)_(.+)$/, "$2.$1");
}
