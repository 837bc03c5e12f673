// What runs when a source has no transform: Inngest's own default for integrations, safe for every body.
function transform(evt, headers, queryParams, raw) {
  const source = "SOURCE";
  const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);
  const body = isObject(evt) ? evt : evt === null ? { raw } : { body: evt };
  // A form's fields are arrays of one.
  const single = (value) => (Array.isArray(value) && value.length === 1 ? value[0] : value);
  const type = [body.type, body.name, body.event_type]
    .map(single)
    .find((value) => typeof value === "string" && value !== "") || "webhook.received";
  return {
    name: `${source}/${type}`.slice(0, 256),
    data: isObject(body.data) ? body.data : body,
  };
}
