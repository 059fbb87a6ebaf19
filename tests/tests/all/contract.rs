//! Runs the contract of stores over every store, and the contract of the
//! checkpointer over every store, in both modes and both layouts.

use ::checkpointer::Layout;
use checkpointer_tests::checkpointer_under_test::Mode;
use checkpointer_tests::contract::{self, Backend, TestStore};

macro_rules! store_contract {
    ($($part:ident: $promises:tt)*) => {
        $(mod $part {
            use super::*;
            store_contract!(@ memory $part Memory $promises);
            store_contract!(@ file $part File $promises);
            store_contract!(@ redis $part Redis $promises);
            store_contract!(@ user $part RedisUser $promises);
            store_contract!(@ valkey $part Valkey $promises);
            store_contract!(@@ $part $promises);
        })*
    };
    // The hidden hash tag of keys on a cluster would change the bytes that a
    // quota counts; quotas on a cluster are tested in `cluster`.
    (@@ quota $promises:tt) => {};
    (@@ $part:ident $promises:tt) => {
        store_contract!(@ cluster $part RedisSlot $promises);
    };
    (@ $module:ident $part:ident $kind:ident { $($promise:ident,)* }) => {
        mod $module {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $promise() {
                    if Backend::$kind.is_requested() {
                        contract::$part::$promise(&TestStore::new(Backend::$kind).await).await;
                    }
                }
            )*
        }
    };
}

/// Tests for one part of the contract, over one store, in one mode and layout.
macro_rules! promises {
    ($module:ident $part:ident $kind:ident $mode:ident $layout:ident { $($promise:ident),* $(,)? }) => {
        mod $module {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $promise() {
                    if Backend::$kind.is_requested() {
                        let store = TestStore::new(Backend::$kind).await.in_layout(Layout::$layout);
                        contract::$part::$promise(&store, Mode::$mode).await;
                    }
                }
            )*
        }
    };
}

macro_rules! in_layout_llmfy {
    ($part:ident $promises:tt) => {
        promises!(memory_native $part Memory Native Llmfy $promises);
        promises!(memory_component $part Memory Component Llmfy $promises);
        promises!(file_native $part File Native Llmfy $promises);
        promises!(file_component $part File Component Llmfy $promises);
        promises!(redis_native $part Redis Native Llmfy $promises);
        promises!(redis_component $part Redis Component Llmfy $promises);
        promises!(user_component $part RedisUser Component Llmfy $promises);
        promises!(valkey_component $part Valkey Component Llmfy $promises);
        promises!(cluster_component $part RedisSlot Component Llmfy $promises);
    };
}

macro_rules! in_both_layouts {
    ($part:ident $promises:tt) => {
        promises!(fake_cluster_native_partitioned $part FakeCluster Native Partitioned $promises);
        promises!(fake_cluster_component_partitioned $part FakeCluster Component Partitioned $promises);
        promises!(file_component_partitioned $part File Component Partitioned $promises);
        promises!(redis_component_partitioned $part Redis Component Partitioned $promises);
        promises!(valkey_component_partitioned $part Valkey Component Partitioned $promises);
        promises!(slot_component_partitioned $part RedisSlot Component Partitioned $promises);
    };
}

macro_rules! in_layout_partitioned {
    ($part:ident $promises:tt) => {
        in_both_layouts!($part $promises);
        promises!(cluster_component_partitioned $part RedisCluster Component Partitioned $promises);
    };
}

macro_rules! checkpointer_contract {
    ($($part:ident: $promises:tt)*) => {
        $(mod $part {
            use super::*;
            in_layout_llmfy!($part $promises);
            in_layout_partitioned!($part $promises);
        })*
    };
}

store_contract! {
    store: {
        get_returns_values_in_key_order_and_truncates_at_characters,
        range_orders_entries_by_score_then_by_bytes,
        range_continues_after_any_position,
        range_enforces_its_byte_limit,
        a_batch_is_applied_only_if_its_conditions_hold,
        index_max_finds_the_highest_qualifying_entry,
        batches_are_applied_in_order,
        only_expire_mode_set_shortens_a_ttl,
        a_put_replaces_the_expiry,
        an_index_keeps_its_longest_ttl,
        ttl_returns_the_remaining_ttl_of_each_key,
        deleted_keys_do_not_exist,
        values_and_indexes_are_distinct_types,
        a_scan_takes_its_prefix_literally,
        invalid_operations_are_rejected,
        concurrent_conditional_puts_have_exactly_one_winner,
    }
    quota: {
        a_full_bucket_rejects_a_commit_and_writes_nothing,
        quota_limits_are_exact,
        a_replaced_value_counts_once,
        deletion_frees_quota_immediately,
        expiry_frees_quota_after_reconciliation,
        an_index_is_counted_by_its_members,
        a_commit_that_deletes_as_much_as_it_puts_succeeds_at_the_limit,
        conditions_are_checked_before_the_quota,
        concurrent_writers_never_exceed_a_quota,
        the_ledger_stays_exact_under_concurrency,
        ledgers_are_independent,
        writes_without_the_quota_count_after_reconciliation,
        a_long_ledger_is_reconciled_in_pages,
        the_ledger_is_exact_after_random_commits,
        an_unwritable_ledger_rejects_the_commit,
        a_store_created_before_quotas_enforces_them,
        invalid_operations_are_rejected_with_a_quota,
    }
}

checkpointer_contract! {
    checkpointer: {
        a_loaded_checkpoint_equals_the_saved_one,
        missing_checkpoints_are_none,
        a_save_reports_a_newer_checkpoint,
        a_list_is_newest_first_and_limited,
        saving_an_id_again_moves_its_index_entries,
        a_foreign_index_entry_is_ignored,
        a_session_named_like_a_run_is_separate,
        clear_all_clears_exactly_one_prefix,
        prefixes_that_share_an_index_name_are_isolated,
        an_unreadable_checkpoint_is_reported_beside_the_readable_ones,
        a_foreign_value_type_is_reported,
        both_formats_are_read_in_one_session,
        deletion_returns_the_count_and_leaves_no_key,
        large_sessions_are_processed_in_pages,
        invalid_arguments_are_rejected_with_the_reason,
        a_stored_checkpoint_with_invalid_ids_can_be_deleted,
        compressed_states_use_the_encoding_of_llmfy,
        max_checkpoints_removes_the_oldest,
        max_checkpoints_ignores_dangling_and_foreign_entries,
        timestamps_are_stored_in_the_format_of_python,
        a_real_agent_run_is_stored_byte_for_byte,
    }
    expiry: {
        expired_checkpoints_hide_no_others,
        a_list_is_correct_while_checkpoints_expire,
        a_ttl_applies_to_values_and_indexes,
        a_session_ttl_expires_the_session_as_a_whole,
        reads_refresh_the_ttl,
        pinned_checkpoints_do_not_expire,
        pins_are_isolated_by_prefix,
    }
    scan_and_restore: {
        a_scan_returns_each_checkpoint_of_a_prefix_once,
        a_scan_reports_pinned_sessions_and_unreadable_values,
        a_scan_returns_remaining_ttls_without_refreshing,
        restore_sets_the_given_ttl,
        dump_returns_the_document_with_its_ttl,
        restore_is_rejected_like_save,
    }
    concurrency: {
        a_save_racing_a_delete_leaves_consistent_indexes,
        concurrent_saves_of_different_ids_succeed_at_the_first_attempt,
        save_after_reports_the_actual_latest,
        save_after_ignores_dangling_and_foreign_entries,
        concurrent_save_after_has_exactly_one_winner,
        save_after_applies_max_checkpoints,
        max_checkpoints_holds_under_concurrency,
    }
}

/// In the layout `llmfy`, where sessions share ids and names of indexes.
mod shared {
    use super::*;

    mod checkpointer {
        use super::*;
        in_layout_llmfy!(checkpointer {
            sessions_are_isolated,
            max_checkpoints_does_not_free_an_id_of_another_session,
        });
    }

    mod concurrency {
        use super::*;
        in_layout_llmfy!(concurrency { save_after_does_not_take_an_id_of_another_session });
    }
}

/// In the layout `partitioned`, where each session has its own ids.
mod partitioned {
    use super::*;
    in_layout_partitioned!(partitioned {
        sessions_with_equal_ids_are_isolated,
        hostile_ids_are_isolated,
        all_keys_of_a_session_have_one_hash_tag,
    });
}

/// With both layouts in one store, on a cluster in one slot.
mod both_layouts {
    use super::*;
    in_both_layouts!(partitioned {
        layouts_are_isolated_under_equal_and_nested_prefixes,
        documents_are_equal_in_both_layouts,
    });

    mod scan_and_restore {
        use super::*;
        in_both_layouts!(scan_and_restore { a_copy_in_the_other_layout_is_identical });
        promises!(memory_component scan_and_restore Memory Component Llmfy { a_copy_in_the_other_layout_is_identical });
        promises!(redis_component scan_and_restore Redis Component Llmfy { a_copy_in_the_other_layout_is_identical });
    }
}
