"""What has befallen gateways and model servers of this kind, and the tests that keep it out here.

Each class of incident names public reports of it and the tests that would fail if it could happen
to this proxy, as ``FILE::TEST`` below ``tests/``. ``unit/test_incidents.py`` keeps the table true.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Incident:
    """A class of incidents."""

    name: str
    what: str
    reports: tuple[str, ...]
    """CVE, GHSA and GO numbers, threads as owner/repository#number, or the class's CWE number."""
    tests: tuple[str, ...]


HTTP = "proxy/http"

INCIDENTS = (
    Incident(
        "SQL injection in the check of a key",
        "a bearer token became part of a statement, before anyone was known",
        ("CVE-2026-42208",),
        (
            "proxy/test_auth.py::test_hostile_headers_get_401_and_reach_no_database",
            "proxy/test_keys.py::test_hostile_headers_are_no_key",
            "proxy/test_keys.py::test_any_bytes_are_no_key",
            f"{HTTP}/test_gate.py::test_hostile_keys",
            f"{HTTP}/test_gate.py::test_two_authorization_headers_are_none",
        ),
    ),
    Incident(
        "a path that is two paths",
        "the Host header or the spelling of a target moved a request past the check of its path",
        ("CVE-2026-48710", "CVE-2026-49468"),
        (
            f"{HTTP}/test_gate.py::test_hosts_and_absolute_targets_decide_nothing",
            f"{HTTP}/test_gate.py::test_no_spelling_of_a_path_gets_around_the_key",
            f"{HTTP}/test_gate.py::test_paths_that_are_not_there",
            "unit/test_incidents.py::test_packages_with_known_holes_are_not_in_the_locks",
        ),
    ),
    Incident(
        "one key taken for another",
        "a cache knew a token by its beginning",
        ("CVE-2026-35030",),
        (
            f"{HTTP}/test_canaries.py::test_keys_of_one_prefix_are_different_people",
            "proxy/test_auth.py::test_two_keys_that_share_all_but_the_secret_share_no_identity",
            "proxy/test_keys.py::test_every_single_changed_character_changes_what_is_asked",
        ),
    ),
    Incident(
        "routes without a key",
        "test and management routes that nobody had thought of",
        ("CVE-2026-42271", "GO-2025-4251"),
        (
            f"{HTTP}/test_gate.py::test_the_list_of_public_paths_does_not_grow",
            f"{HTTP}/test_gate.py::test_every_path_needs_a_key",
            f"{HTTP}/test_gate.py::test_methods",
            f"{HTTP}/test_scopes.py::test_metrics_without_a_key_only_here",
        ),
    ),
    Incident(
        "every key can do everything",
        "no difference between asking a model and looking at others",
        ("mostlygeek/llama-swap#971", "mostlygeek/llama-swap#972"),
        (
            f"{HTTP}/test_scopes.py::test_each_path_takes_one_scope",
            f"{HTTP}/test_scopes.py::test_scopes_change_while_a_key_is_in_use",
            f"{HTTP}/test_scopes.py::test_rotating_keeps_the_scopes_of_the_key_in_use",
            f"{HTTP}/test_gate.py::test_models_a_key_may_not_use",
        ),
    ),
    Incident(
        "ended keys that still open",
        "a blocked or expired key lived on in a cache, or came back through one",
        ("BerriAI/litellm#35535", "BerriAI/litellm#25553", "BerriAI/litellm#34217"),
        (
            "proxy/test_auth_changes.py::test_an_end_of_a_key_holds_within_a_second",
            "proxy/test_auth_changes.py::test_every_end_of_a_key_holds",
            "proxy/test_auth_changes.py::test_revocation_holds_also_while_the_lookup_is_in_flight",
            "proxy/test_auth_changes.py::test_revocation_while_the_connection_was_lost",
            "proxy/test_auth_changes.py::test_expiry_is_looked_at_on_every_use",
            f"{HTTP}/test_gate.py::test_disabled_expired_and_revoked_keys",
            f"{HTTP}/test_reload.py::test_a_revoked_key_is_refused_by_both_workers",
        ),
    ),
    Incident(
        "keys that can be guessed by the clock",
        "a comparison that ends early, a delay on failure alone",
        ("CVE-2025-59425", "CVE-2026-23996"),
        (
            f"{HTTP}/test_canaries.py::test_every_well_formed_key_is_compared_once_and_alike",
            "proxy/test_auth.py::test_all_refused_keys_get_the_same_answer",
        ),
    ),
    Incident(
        "keys in logs and errors",
        "a key in an error, a log, a row, or sent on to a backend",
        (
            "BerriAI/litellm#18731",
            "BerriAI/litellm#30670",
            "BerriAI/litellm#31620",
            "BerriAI/litellm#32202",
            "kcolemangt/llm-router#13",
        ),
        (
            f"{HTTP}/test_canaries.py::test_no_key_and_no_prompt_turns_up_anywhere",
            f"{HTTP}/test_wire.py::test_errors_say_nothing_of_the_machine_or_of_others",
            f"{HTTP}/test_faults.py::test_what_the_backend_gets",
            f"{HTTP}/test_faults.py::test_no_prompt_or_key_in_the_log",
            "proxy/test_users_cli.py::test_no_key_is_in_the_servers_log_or_in_an_argument",
            "proxy/test_users_cli.py::test_a_whole_key_given_to_revoke_is_not_repeated",
            "proxy/test_keys.py::test_a_key_does_not_show_itself",
            "hosts/state/test_secrets.py::test_no_secret_is_to_be_seen_on_the_host",
        ),
    ),
    Incident(
        "requests in the server's name",
        "a body, a header or an image made the gateway, or the backend, fetch an address",
        ("CVE-2024-6587",),
        (
            f"{HTTP}/test_hostile_bodies.py::test_nothing_is_fetched_for_a_client",
            f"{HTTP}/test_hostile_bodies.py::test_values_that_are_out_of_all_bounds",
            "unit/test_validate.py::test_unknown_fields",
            "hosts/state/test_units.py::test_the_models_reach_nobody",
        ),
    ),
    Incident(
        "parameters that harm the model server",
        "a field that nobody checked wrote to memory, or ended the process",
        ("CVE-2026-21869",),
        (
            f"{HTTP}/test_hostile_bodies.py::test_values_that_are_out_of_all_bounds",
            f"{HTTP}/test_fuzz.py::test_whatever_comes_is_answered_properly",
            "unit/test_validate.py::test_anything_is_either_prepared_or_a_400",
            "unit/test_schema_guard.py::test_bad_schemas",
        ),
    ),
    Incident(
        "bodies that unfold",
        "16 KB of zstd became 512 MB; bodies without a length, or too deep",
        ("headroomlabs-ai/headroom#3284", "sgl-project/sglang#40064"),
        (
            f"{HTTP}/test_hostile_bodies.py::test_compressed_bodies_are_not_unpacked",
            f"{HTTP}/test_hostile_bodies.py::test_endless_bodies_are_cut_while_they_are_read",
            f"{HTTP}/test_hostile_bodies.py::test_json_that_is_none",
            f"{HTTP}/test_wire.py::test_oversized_bodies",
            "unit/test_body.py::test_an_endless_body_is_not_read_to_its_end",
            "unit/test_body.py::test_what_is_refused",
        ),
    ),
    Incident(
        "JSON that two readers read differently",
        "a key given twice, a number no one can hold, NaN; what was checked is not what was used",
        ("CVE-2017-12635",),
        (
            f"{HTTP}/test_hostile_bodies.py::test_of_a_key_given_twice_the_last_counts_for_everyone",
            f"{HTTP}/test_hostile_bodies.py::test_json_that_is_none",
            "unit/test_body.py::test_half_a_surrogate_pair",
        ),
    ),
    Incident(
        "clients that take their time",
        "connections that trickle, or read nothing, hold a place, a file or memory for ever",
        ("CVE-2026-42561", "CVE-2024-24762"),
        (
            f"{HTTP}/test_slow_clients.py::test_a_head_that_trickles",
            f"{HTTP}/test_slow_clients.py::test_a_body_that_trickles_after_its_answer",
            f"{HTTP}/test_slow_clients.py::test_line_breaks_after_an_answer",
            f"{HTTP}/test_slow_clients.py::test_a_reader_that_never_reads",
            f"{HTTP}/test_wire.py::test_connections_that_say_nothing",
            "unit/test_body.py::test_a_slow_body",
            f"{HTTP}/test_faults.py::test_a_reader_that_takes_nothing_holds_no_place",
            f"{HTTP}/test_faults.py::test_a_reader_that_stalls_is_cut",
            f"{HTTP}/test_tls.py::test_who_never_shakes_hands_is_let_go",
            f"{HTTP}/test_hostile_bodies.py::test_content_types_that_are_made_to_be_slow_to_read",
            f"{HTTP}/test_hostile_bodies.py::test_text_that_is_made_to_be_slow_to_check",
        ),
    ),
    Incident(
        "smuggled requests, stray headers",
        "two lengths, two encodings, a chunk that ends twice; headers that should have stayed here",
        ("CVE-2025-43859", "CWE-444"),
        (
            f"{HTTP}/test_smuggling.py::test_heads_that_can_be_read_in_two_ways",
            f"{HTTP}/test_smuggling.py::test_chunks_that_can_be_read_in_two_ways",
            f"{HTTP}/test_smuggling.py::test_a_body_that_goes_on_after_its_answer_is_no_request",
            f"{HTTP}/test_smuggling.py::test_headers_stop_here_both_ways",
            f"{HTTP}/test_smuggling.py::test_framing_without_an_end_ends_the_connection",
            f"{HTTP}/test_wire.py::test_smuggling",
            f"{HTTP}/test_wire.py::test_bare_line_feeds",
            f"{HTTP}/test_wire.py::test_upgrades_lead_nowhere",
        ),
    ),
    Incident(
        "clients that say where they are",
        "X-Forwarded-For: 127.0.0.1 opened what is for this machine alone",
        ("tashfeenahmed/freellmapi#35", "jxoesneon/IPFS#103"),
        (
            "unit/test_client_address.py::test_a_client_can_add_nothing_to_what_its_proxy_says",
            "unit/test_client_address.py::test_without_trusted_proxies_no_header_is_believed",
            f"{HTTP}/test_reverse_proxy.py::test_who_may_read_the_metrics_without_a_key",
            f"{HTTP}/test_reverse_proxy.py::test_the_log_has_the_client_a_trusted_proxy_names",
            f"{HTTP}/test_reverse_proxy.py::test_without_the_setting_the_log_has_the_peer",
            "unit/test_ledger.py::test_the_number_of_meters_is_bounded",
        ),
    ),
    Incident(
        "limits that do not hold",
        "many requests at once, or another route, pass a limit",
        ("BerriAI/litellm#18730", "maximhq/bifrost#2873"),
        (
            f"{HTTP}/test_gate.py::test_rate_limit_holds_in_parallel",
            f"{HTTP}/test_gate.py::test_rate_limit",
            "unit/test_ledger.py::test_never_more_than_the_limit",
            f"{HTTP}/test_limits.py::test_two_hosts_hammered_reach_the_limit_and_never_exceed_it",
            f"{HTTP}/test_limits.py::test_every_path_costs_one_request",
            f"{HTTP}/test_limits.py::test_a_killed_worker_forgets_nothing",
            f"{HTTP}/test_disconnect.py::test_one_user_can_not_keep_the_others_waiting",
        ),
    ),
    Incident(
        "places that are lost",
        "requests that were cut off kept their place until nobody had one",
        ("BerriAI/litellm#27955",),
        (
            f"{HTTP}/test_disconnect.py::test_hundreds_that_leave_lose_no_place",
            f"{HTTP}/test_scopes.py::test_a_user_who_left_is_not_in_the_load",
            f"{HTTP}/test_fuzz.py::test_whatever_comes_is_answered_properly",
            "unit/test_queue_front.py::test_cancelled_at_the_moment_of_admission",
        ),
    ),
    Incident(
        "text that ends an event",
        "a line break in the data of a stream began a field or an event of its own",
        ("GHSA-4hxc-9384-m385", "GHSA-p6xx-57qc-3wxr", "fastapi/fastapi#15187"),
        (
            f"{HTTP}/test_injection.py::test_what_a_model_says_is_data",
            f"{HTTP}/test_injection.py::test_an_error_in_a_stream_is_one_event",
            f"{HTTP}/test_injection.py::test_data_over_several_lines_is_one_line_here",
            "unit/test_sse.py::test_what_an_event_says_is_one_line_for_every_reader",
        ),
    ),
    Incident(
        "text that ends a line of the log",
        "line breaks and terminal commands in what a client sends",
        ("CWE-117",),
        (
            f"{HTTP}/test_injection.py::test_every_field_of_the_log_holds_in_one_line",
            f"{HTTP}/test_injection.py::test_nothing_of_a_request_makes_a_line_of_the_log",
            "proxy/test_request_log.py::test_odd_texts_are_written",
        ),
    ),
    Incident(
        "text that opens another role",
        "a mark of the template in a message speaks as the system",
        ("CWE-1427",),
        (
            f"{HTTP}/test_injection.py::test_marks_of_templates_reach_no_backend_from_a_chat",
            f"{HTTP}/test_openai_client.py::test_control_tokens_in_a_message_are_text",
            "unit/test_validate_messages.py::test_no_mark_survives",
        ),
    ),
    Incident(
        "patterns and statements without an end",
        "a LIKE, or a pattern, that a client made expensive",
        ("CVE-2026-25591",),
        (
            f"{HTTP}/test_hostile_bodies.py::test_text_that_is_made_to_be_slow_to_check",
            "proxy/test_provision.py::test_the_proxys_statements_end",
            "proxy/test_auth.py::test_a_flood_of_invented_keys_costs_few_queries_and_pushes_nobody_out",
        ),
    ),
    Incident(
        "another's data by its number",
        "one user read the usage, the files or the slots of another",
        ("CVE-2026-30886", "ggml-org/llama.cpp#16534"),
        (
            f"{HTTP}/test_canaries.py::test_one_user_sees_nothing_of_another",
            f"{HTTP}/test_scopes.py::test_the_load_says_who_holds_and_who_waits",
        ),
    ),
    Incident(
        "another's words in an answer",
        "a cache or a slot gave one conversation's text to another",
        ("ggml-org/llama.cpp#27148",),
        (f"{HTTP}/test_fuzz.py::test_whatever_comes_is_answered_properly",),
    ),
    Incident(
        "model files that are programs",
        "a crafted file read the server's memory; a template ran code",
        ("CVE-2026-7482", "CVE-2024-34359"),
        (
            "unit/kit/fetch/test_refusals.py::test_wrong_bytes_are_removed",
            "unit/kit/fetch/test_refusals.py::test_something_that_is_no_model_is_told",
            "unit/deploy/test_units.py::test_a_unit_of_a_host_is_shut_in",
            "hosts/state/test_units.py::test_no_unit_is_exposed",
        ),
    ),
    Incident(
        "packages that are not what they were",
        "a release on the index stole what it found",
        ("BerriAI/litellm#24518",),
        (
            "unit/test_incidents.py::test_every_package_of_a_lock_has_a_hash",
            "unit/kit/test_bundle.py::test_a_damaged_file_is_found",
            "hosts/state/test_secrets.py::test_the_services_have_them_as_credentials_alone",
        ),
    ),
    Incident(
        "secrets everyone knows",
        "root/123456, test-token, or nothing at all",
        ("CWE-1392",),
        (
            "unit/test_proxy_settings.py::test_secrets_from_examples",
            "unit/test_proxy_settings.py::test_the_secrets_of_our_own_documents_are_examples",
            "unit/test_proxy_settings.py::test_secrets",
            f"{HTTP}/test_running.py::test_a_secret_that_everyone_knows",
            "hosts/changes/test_refused.py::test_a_secret_that_is_too_short_is_named_and_not_shown",
        ),
    ),
    Incident(
        "an outage that looks like a wrong key",
        "the database was away, and everyone was told 401",
        ("BerriAI/litellm#34479",),
        (
            f"{HTTP}/test_running.py::test_without_postgres",
            "proxy/test_auth_outages.py::test_a_postgres_killed_and_back",
            "proxy/test_auth_outages.py::test_a_postgres_that_hangs_is_away",
            "proxy/test_auth_outages.py::test_starting_without_a_postgres",
            "proxy/test_auth_outages.py::test_a_key_ended_before_an_outage_and_not_used_since_stays_ended",
        ),
    ),
)
