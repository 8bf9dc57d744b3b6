-- A page of threads in the order of their last change is read without the others.
CREATE INDEX threads_latest ON threads (updated_at, thread_id) WHERE temporary = 0;
