-- Users, their keys, and the counter by which every proxy process notices a change.

-- One row. A transaction that changes users or keys takes the next version, and the row lock it
-- holds until it commits makes the order of versions the order of commits: whoever sees version n
-- sees everything up to n.
CREATE TABLE public.key_epoch (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    version  bigint NOT NULL DEFAULT 1,
    deleted  bigint NOT NULL DEFAULT 0
);
COMMENT ON COLUMN public.key_epoch.version IS 'grows by one with each transaction that changes users or keys';
COMMENT ON COLUMN public.key_epoch.deleted IS 'the last version that removed rows';
INSERT INTO public.key_epoch DEFAULT VALUES;

CREATE TABLE public.users (
    id                  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    username            text NOT NULL CHECK (username ~ '^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$'),
    status              text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'disabled')),
    rate_limit          integer CHECK (rate_limit >= 0),
    rate_window_seconds integer CHECK (rate_window_seconds > 0),
    allowed_models      text[],
    created_at          timestamptz NOT NULL DEFAULT now(),
    version             bigint NOT NULL
);
CREATE UNIQUE INDEX users_username ON public.users (lower(username));
CREATE INDEX users_version ON public.users (version);
COMMENT ON COLUMN public.users.rate_limit IS 'requests per window, 0 for no limit, null for the default';
COMMENT ON COLUMN public.users.allowed_models IS 'model ids, null for all';

CREATE TABLE public.api_keys (
    public_id    text COLLATE "C" PRIMARY KEY CHECK (public_id ~ '^[0-9A-Za-z]{12}$'),
    user_id      bigint NOT NULL REFERENCES public.users ON DELETE CASCADE,
    sha256       bytea NOT NULL CHECK (octet_length(sha256) = 32),
    label        text CHECK (char_length(label) <= 100),
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz,
    revoked_at   timestamptz,
    last_used_at timestamptz,
    version      bigint NOT NULL
) WITH (fillfactor = 80);
CREATE INDEX api_keys_user ON public.api_keys (user_id);
CREATE INDEX api_keys_version ON public.api_keys (version);
COMMENT ON COLUMN public.api_keys.sha256 IS 'of the whole key; the key itself is nowhere';

CREATE FUNCTION public.next_key_epoch(removes_rows boolean) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    transaction_id text := pg_current_xact_id()::text;
    mark text := coalesce(current_setting('llamakit.key_epoch', true), '');
    epoch bigint;
BEGIN
    IF split_part(mark, ':', 1) = transaction_id THEN
        epoch := split_part(mark, ':', 2)::bigint;
    ELSE
        UPDATE public.key_epoch SET version = version + 1 RETURNING version INTO STRICT epoch;
        PERFORM set_config('llamakit.key_epoch', transaction_id || ':' || epoch, true);
        PERFORM pg_notify('llamakit_keys', epoch::text);
    END IF;
    IF removes_rows THEN
        UPDATE public.key_epoch SET deleted = epoch WHERE deleted < epoch;
    END IF;
    RETURN epoch;
END
$$;

CREATE FUNCTION public.stamp_key_version() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP IN ('INSERT', 'UPDATE') THEN
        NEW.version := public.next_key_epoch(false);
        RETURN NEW;
    END IF;
    PERFORM public.next_key_epoch(true);
    RETURN OLD;
END
$$;

CREATE TRIGGER users_version
    BEFORE INSERT OR DELETE OR UPDATE OF id, username, status, rate_limit, rate_window_seconds, allowed_models
    ON public.users FOR EACH ROW EXECUTE FUNCTION public.stamp_key_version();
CREATE TRIGGER users_truncated
    BEFORE TRUNCATE ON public.users FOR EACH STATEMENT EXECUTE FUNCTION public.stamp_key_version();

-- last_used_at is not among the columns: writing it changes nothing a proxy must notice.
CREATE TRIGGER api_keys_version
    BEFORE INSERT OR DELETE OR UPDATE OF public_id, user_id, sha256, expires_at, revoked_at
    ON public.api_keys FOR EACH ROW EXECUTE FUNCTION public.stamp_key_version();
CREATE TRIGGER api_keys_truncated
    BEFORE TRUNCATE ON public.api_keys FOR EACH STATEMENT EXECUTE FUNCTION public.stamp_key_version();
