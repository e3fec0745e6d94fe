-- Whose requests go first when a model is busy.

ALTER TABLE public.users ADD COLUMN weight smallint NOT NULL DEFAULT 1 CHECK (weight BETWEEN 1 AND 100);
COMMENT ON COLUMN public.users.weight IS 'share of a busy model''s turns, against those of other users';

ALTER TABLE public.api_keys ADD COLUMN priority text NOT NULL DEFAULT 'interactive'
    CHECK (priority IN ('interactive', 'batch'));
COMMENT ON COLUMN public.api_keys.priority IS 'batch lets interactive requests go first, for a while';

-- Triggers of their own: what the others look at is theirs.
CREATE TRIGGER users_weight_version
    BEFORE UPDATE OF weight
    ON public.users FOR EACH ROW EXECUTE FUNCTION public.stamp_key_version();
CREATE TRIGGER api_keys_priority_version
    BEFORE UPDATE OF priority
    ON public.api_keys FOR EACH ROW EXECUTE FUNCTION public.stamp_key_version();
