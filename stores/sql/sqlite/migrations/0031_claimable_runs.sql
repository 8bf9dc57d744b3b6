-- Waiting runs that workers claim for others: of each user, the oldest first. '' = without a user.
CREATE INDEX runs_claimable ON runs (COALESCE(user_id, ''), created_us, run_id)
    WHERE status = 'pending' AND NOT holds_thread AND portable;
