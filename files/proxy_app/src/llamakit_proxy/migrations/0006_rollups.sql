-- Usage per UTC day, counted as the rows of the request log come in and kept when they are dropped;
-- and how long they are kept.

CREATE TABLE public.llama_usage (
    day               date NOT NULL,
    username          text NOT NULL,
    model             text NOT NULL,
    path              text NOT NULL,
    requests          bigint NOT NULL,
    errors            bigint NOT NULL,
    prompt_tokens     bigint NOT NULL,
    completion_tokens bigint NOT NULL,
    duration_us       bigint NOT NULL,
    max_duration_us   bigint NOT NULL,
    durations         integer[] NOT NULL,
    PRIMARY KEY (day, username, model, path)
) WITH (fillfactor = 70);
COMMENT ON COLUMN public.llama_usage.model IS '- for requests that named none';
COMMENT ON COLUMN public.llama_usage.errors IS 'answered with a status of 400 or more';
COMMENT ON COLUMN public.llama_usage.duration_us IS 'whole microseconds, so that sums are exact in any order';
COMMENT ON COLUMN public.llama_usage.durations IS 'how many requests are in each of the 64 buckets of duration_bucket()';

-- Buckets 1 to 64, each a third of an octave (26 %) wide: n has durations up to 2^((n - 1) / 3) ms,
-- the last one all that are longer, too.
CREATE FUNCTION public.duration_bucket(duration_ms double precision) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT least(1 + ceil(3 * ln(greatest(duration_ms, 1)) / ln(2.0::double precision)), 64)::integer
$$;

CREATE FUNCTION public.count_buckets(buckets integer[]) RETURNS integer[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT array_agg(count ORDER BY bucket)
    FROM (SELECT bucket, count(found)::integer
          FROM generate_series(1, 64) AS bucket LEFT JOIN unnest(buckets) AS found ON found = bucket
          GROUP BY bucket) AS counted (bucket, count)
$$;

CREATE FUNCTION public.add_buckets(these integer[], those integer[]) RETURNS integer[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT array_agg(one + other ORDER BY bucket)
    FROM unnest(these, those) WITH ORDINALITY AS pair (one, other, bucket)
$$;

-- Every row is counted once, by the statement that adds it, whoever that is: a row that was there
-- already (ON CONFLICT DO NOTHING) is not among those added, and what is rolled back is not counted.
-- The order makes sure that two writers never wait for each other.
CREATE FUNCTION public.count_usage() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO public.llama_usage AS counted
    SELECT (created_at AT TIME ZONE 'UTC')::date, username, coalesce(model, '-'), path,
           count(*), count(*) FILTER (WHERE status_code >= 400),
           coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0),
           sum(round(duration_ms * 1000)::bigint), max(round(duration_ms * 1000)::bigint),
           public.count_buckets(array_agg(public.duration_bucket(duration_ms)))
    FROM added GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4
    ON CONFLICT (day, username, model, path) DO UPDATE SET
        requests = counted.requests + excluded.requests,
        errors = counted.errors + excluded.errors,
        prompt_tokens = counted.prompt_tokens + excluded.prompt_tokens,
        completion_tokens = counted.completion_tokens + excluded.completion_tokens,
        duration_us = counted.duration_us + excluded.duration_us,
        max_duration_us = greatest(counted.max_duration_us, excluded.max_duration_us),
        durations = public.add_buckets(counted.durations, excluded.durations);
    RETURN NULL;
END
$$;

-- From here to the end of the migration nobody else adds rows, so that those that are there already
-- are counted below, and all others by the trigger.
CREATE TRIGGER llama_requests_count
    AFTER INSERT ON public.llama_requests REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION public.count_usage();
INSERT INTO public.llama_usage
SELECT (created_at AT TIME ZONE 'UTC')::date, username, coalesce(model, '-'), path,
       count(*), count(*) FILTER (WHERE status_code >= 400),
       coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0),
       sum(round(duration_ms * 1000)::bigint), max(round(duration_ms * 1000)::bigint),
       public.count_buckets(array_agg(public.duration_bucket(duration_ms)))
FROM public.llama_requests GROUP BY 1, 2, 3, 4;

-- Set by init-db, because a proxy that was broken into must not be able to shorten it.
CREATE TABLE public.llama_retention (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    days     integer NOT NULL DEFAULT 0 CHECK (days >= 0)
);
COMMENT ON COLUMN public.llama_retention.days IS 'how long rows of llama_requests are kept; 0 for ever';
INSERT INTO public.llama_retention DEFAULT VALUES;

-- One step towards the retention: the oldest partition whose rows are all too old goes, or else some
-- rows of the default partition. What it took from; null when nothing is left to do, or when another
-- session is at it. It rather fails than have others wait behind it for a lock.
CREATE FUNCTION public.drop_old_requests() RETURNS text
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC'
SET lock_timeout = '500ms'
AS $$
DECLARE
    first_day date;
    partition text;
BEGIN
    SELECT current_date - days INTO first_day FROM public.llama_retention WHERE days > 0;
    IF first_day IS NULL OR NOT pg_try_advisory_xact_lock(hashtext('llamakit.drop_old_requests')) THEN
        RETURN NULL;
    END IF;
    SELECT min(relname) INTO partition
    FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
    WHERE inhparent = 'public.llama_requests'::regclass AND relname ~ '^llama_requests_[0-9]{8}$'
          AND relname < 'llama_requests_' || to_char(first_day, 'YYYYMMDD');
    IF partition IS NOT NULL THEN
        EXECUTE format('DROP TABLE public.%I', partition);
        RETURN partition;
    END IF;
    DELETE FROM public.llama_requests_default WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM public.llama_requests_default WHERE created_at < first_day LIMIT 2000
    ));
    RETURN CASE WHEN FOUND THEN 'llama_requests_default' END;
END
$$;
