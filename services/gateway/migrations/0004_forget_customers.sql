-- migrate:up

-- What tells of a person in an archived body is blanked when that person is erased.
grant update (payload, payload_bytes) on webhook_event to sluice_gateway;
