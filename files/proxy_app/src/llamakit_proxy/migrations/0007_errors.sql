-- What counts as an error in the sums of usage: a stream that broke off after its status does, a client
-- that left or did not read does not.

CREATE FUNCTION public.is_error(error_code text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT error_code IS NOT NULL AND error_code NOT IN ('client_disconnected', 'client_too_slow')
$$;
COMMENT ON COLUMN public.llama_usage.errors IS 'those with an error code, save those of clients that left';

CREATE OR REPLACE FUNCTION public.count_usage() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO public.llama_usage AS counted
    SELECT (created_at AT TIME ZONE 'UTC')::date, username, coalesce(model, '-'), path,
           count(*), count(*) FILTER (WHERE public.is_error(error_code)),
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

-- Sums whose rows are all there still are counted anew, while nobody adds any.
LOCK TABLE public.llama_requests IN SHARE ROW EXCLUSIVE MODE;
UPDATE public.llama_usage AS counted SET errors = found.errors
FROM (SELECT (created_at AT TIME ZONE 'UTC')::date AS day, username, coalesce(model, '-') AS model, path,
             count(*) AS requests, count(*) FILTER (WHERE public.is_error(error_code)) AS errors
      FROM public.llama_requests GROUP BY 1, 2, 3, 4) AS found
WHERE (counted.day, counted.username, counted.model, counted.path, counted.requests)
      = (found.day, found.username, found.model, found.path, found.requests)
      AND counted.errors <> found.errors;
