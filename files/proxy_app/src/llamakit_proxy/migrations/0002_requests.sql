-- One row per request, in a partition per UTC day.

CREATE TABLE public.llama_requests (
    created_at        timestamptz NOT NULL DEFAULT now(),
    request_id        text NOT NULL DEFAULT gen_random_uuid()::text,
    username          text NOT NULL,
    user_id           bigint,
    key_id            text,
    method            text NOT NULL DEFAULT 'POST',
    path              text NOT NULL,
    model             text,
    status_code       integer NOT NULL,
    error_code        text,
    stream            boolean NOT NULL DEFAULT false,
    duration_ms       double precision NOT NULL,
    ttft_ms           double precision,
    queue_ms          double precision,
    request_bytes     bigint NOT NULL DEFAULT 0,
    response_bytes    bigint NOT NULL DEFAULT 0,
    prompt_tokens     integer,
    completion_tokens integer,
    client            text,
    PRIMARY KEY (request_id, created_at)
) PARTITION BY RANGE (created_at);
CREATE INDEX llama_requests_usage ON public.llama_requests (username, created_at);
COMMENT ON TABLE public.llama_requests IS 'who asked what when, and what it cost; never prompts or answers';

-- A row whose day has no partition of its own is kept here: none is ever lost.
CREATE TABLE public.llama_requests_default PARTITION OF public.llama_requests DEFAULT;

-- The partitions of today and the days_ahead days that follow, at most 31; returns the names of
-- those it made. It runs with its owner's rights, because a proxy may insert rows and no more.
CREATE FUNCTION public.ensure_request_partitions(days_ahead integer DEFAULT 7) RETURNS SETOF text
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC'
SET lock_timeout = '5s'
AS $$
DECLARE
    day date;
    partition text;
    bounds text;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('llamakit.ensure_request_partitions'));
    FOR day IN SELECT current_date + n FROM generate_series(0, least(days_ahead, 31)) AS n LOOP
        partition := 'llama_requests_' || to_char(day, 'YYYYMMDD');
        CONTINUE WHEN to_regclass('public.' || partition) IS NOT NULL;
        -- Rows of that day may be in the default partition already; they move to their place,
        -- and the lock keeps new ones out until it exists.
        LOCK TABLE public.llama_requests_default IN ACCESS EXCLUSIVE MODE;
        bounds := format('created_at >= %L AND created_at < %L', day::timestamptz, (day + 1)::timestamptz);
        EXECUTE format('CREATE TABLE public.%I (LIKE public.llama_requests INCLUDING ALL)', partition);
        EXECUTE format('INSERT INTO public.%I SELECT * FROM public.llama_requests_default WHERE %s', partition, bounds);
        EXECUTE format('DELETE FROM public.llama_requests_default WHERE %s', bounds);
        EXECUTE format('ALTER TABLE public.llama_requests ATTACH PARTITION public.%I FOR VALUES FROM (%L) TO (%L)',
                       partition, day::timestamptz, (day + 1)::timestamptz);
        RETURN NEXT partition;
    END LOOP;
END
$$;
