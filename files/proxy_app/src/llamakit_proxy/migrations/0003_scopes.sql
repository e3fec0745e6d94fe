-- What a key is for.

ALTER TABLE public.api_keys
    ADD COLUMN scopes text[] NOT NULL DEFAULT '{inference}'
        CONSTRAINT api_keys_scopes CHECK (
            scopes <@ '{inference,admin,metrics}' AND cardinality(scopes) > 0
        );
COMMENT ON COLUMN public.api_keys.scopes IS 'inference: /v1; admin: /admin; metrics: /metrics from anywhere';

-- As before, and for a change of the scopes, too.
DROP TRIGGER api_keys_version ON public.api_keys;
CREATE TRIGGER api_keys_version
    BEFORE INSERT OR DELETE OR UPDATE OF public_id, user_id, sha256, expires_at, revoked_at, scopes
    ON public.api_keys FOR EACH ROW EXECUTE FUNCTION public.stamp_key_version();
