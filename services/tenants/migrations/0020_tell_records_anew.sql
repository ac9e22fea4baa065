-- migrate:up

-- In which form the tenant's record was told last. When a new version of the code tells more, or tells
-- it otherwise, tenants whose record has the form before are told once more by a job.
alter table tenant add column record_format integer not null default 1;
