-- Who declared the worker dead; null where it left by itself, or was found dead.
ALTER TABLE rc.workers ADD COLUMN fenced_actor text;
-- Besides: whom a freed thread goes to is answered by functions with new names (`finish_v2`, `settle_v2`); those
-- that workers of the version before call stay. Functions are made anew after a migration.
