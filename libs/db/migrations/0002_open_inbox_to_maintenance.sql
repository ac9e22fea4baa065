-- migrate:up

-- Old rows of the inbox are deleted by the maintenance job, like those of the outbox.
select open_to_maintenance('inbox');
