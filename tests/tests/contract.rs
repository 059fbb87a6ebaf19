//! Every store passes the contract of stores, and the checkpointer passes its
//! own over every store, natively and as the component, in both layouts.

use ::checkpointer::Layout;
use checkpointer_tests::contract::{self, Backend, TestStore};
use checkpointer_tests::checkpointer_under_test::Mode;

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
    // A key costs what it has in bytes, and on a cluster it has a tag excluding: how
    // quotas are kept to there is tested in `cluster/main.rs`.
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
                    contract::$part::$promise(&TestStore::new(Backend::$kind).await).await;
                }
            )*
        }
    };
}

/// The promises of a part, at one place, run one way, in one layout.
macro_rules! promises {
    ($module:ident $part:ident $kind:ident $mode:ident $layout:ident { $($promise:ident),* $(,)? }) => {
        mod $module {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $promise() {
                    let place = TestStore::new(Backend::$kind).await.in_layout(Layout::$layout);
                    contract::$part::$promise(&place, Mode::$mode).await;
                }
            )*
        }
    };
}

macro_rules! in_llmfys_layout {
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
        promises!(spread_native_partitioned $part FakeCluster Native Partitioned $promises);
        promises!(spread_component_partitioned $part FakeCluster Component Partitioned $promises);
        promises!(file_component_partitioned $part File Component Partitioned $promises);
        promises!(redis_component_partitioned $part Redis Component Partitioned $promises);
        promises!(valkey_component_partitioned $part Valkey Component Partitioned $promises);
        promises!(slot_component_partitioned $part RedisSlot Component Partitioned $promises);
    };
}

macro_rules! in_partitions {
    ($part:ident $promises:tt) => {
        in_both_layouts!($part $promises);
        promises!(cluster_component_partitioned $part RedisCluster Component Partitioned $promises);
    };
}

macro_rules! checkpointer_contract {
    ($($part:ident: $promises:tt)*) => {
        $(mod $part {
            use super::*;
            in_llmfys_layout!($part $promises);
            in_partitions!($part $promises);
        })*
    };
}

store_contract! {
    store: {
        gives_values_in_order_and_heads_at_characters,
        keeps_an_index_in_order_of_scores_then_bytes,
        goes_on_behind_any_place_in_an_index,
        gives_no_more_bytes_than_asked_for,
        applies_a_batch_only_if_its_conditions_hold,
        knows_the_highest_entry_that_counts,
        applies_the_batches_of_a_call_in_order,
        a_life_is_cut_short_only_where_that_is_said,
        values_expire_and_setting_them_again_sets_the_expiry,
        an_index_lives_as_long_as_its_longest_lived_member,
        says_how_long_each_key_has_left,
        what_is_deleted_is_gone,
        a_value_is_no_index_and_an_index_no_value,
        a_scan_takes_its_prefix_literally,
        refuses_what_it_cannot_keep,
        of_many_at_once_one_wins,
    }
    quota: {
        a_full_bucket_refuses_and_writes_nothing,
        a_limit_is_exact,
        what_is_replaced_counts_once,
        deleting_gives_room_at_once,
        what_expires_gives_room_once_settled,
        indexes_are_counted_by_their_members,
        a_commit_that_prunes_as_it_puts_passes_at_the_limit,
        conditions_come_before_the_quota,
        many_writers_never_exceed_a_limit,
        a_ledger_stays_true_among_many,
        ledgers_keep_apart,
        what_is_written_past_a_quota_counts_once_settled,
        a_long_ledger_is_settled_page_by_page,
        after_any_commits_the_ledger_is_true,
        a_ledger_that_cannot_be_written_stops_the_commit,
        a_store_from_before_quotas_keeps_them,
        a_quota_refuses_what_cannot_be_kept,
    }
}

checkpointer_contract! {
    checkpointer: {
        a_saved_checkpoint_is_loaded_as_it_was,
        none_is_loaded_only_where_there_is_none,
        a_save_reports_a_newer_checkpoint,
        a_list_is_newest_first_and_no_longer_than_asked,
        saving_an_id_again_moves_it,
        an_index_entry_does_not_make_a_checkpoint_ones_own,
        a_session_named_like_a_run_is_a_session_of_its_own,
        clear_all_clears_one_prefix_and_no_other,
        prefixes_that_share_an_index_by_its_name_keep_apart,
        an_unreadable_checkpoint_is_named_beside_the_others,
        a_value_of_another_type_is_said_to_be_one,
        both_generations_are_read_in_one_session,
        deleting_counts_and_leaves_nothing_behind,
        large_sessions_go_page_by_page,
        bad_input_is_refused_with_the_reason,
        a_stored_checkpoint_with_ids_too_long_can_be_removed,
        compressed_states_are_stored_as_llmfy_does_and_loaded_as_they_were,
        a_session_keeps_no_more_than_its_limit,
        a_limit_counts_neither_the_dead_nor_others,
        timestamps_are_stored_as_python_writes_them,
        a_real_agent_run_is_kept_to_the_byte,
    }
    lifetime: {
        what_expires_hides_nothing_that_lives,
        a_list_is_right_while_its_checkpoints_expire_one_by_one,
        a_ttl_is_kept_for_values_and_indexes_alike,
        a_session_with_a_ttl_of_its_own_goes_as_a_whole,
        what_is_read_lives_on,
        what_is_pinned_stays,
        pins_of_one_prefix_are_none_of_another,
    }
    moving: {
        a_scan_gives_each_checkpoint_of_a_prefix_once,
        a_scan_names_what_is_pinned_and_what_cannot_be_read,
        a_scan_says_how_long_each_checkpoint_has_left,
        what_is_restored_has_the_time_that_it_is_given,
        restoring_is_refused_as_saving_is,
    }
    concurrency: {
        a_save_that_races_a_delete_leaves_nothing_unnamed,
        saves_of_different_ids_never_disturb_each_other,
        a_save_after_another_latest_is_told_which_it_is,
        a_latest_checkpoint_is_one_that_lives_and_is_the_sessions_own,
        of_many_that_extend_a_session_each_comes_after_another,
        a_save_after_keeps_to_the_limit_of_a_session,
        a_limit_holds_for_many_at_once,
    }
}

/// Where ids and the names of indexes are shared by sessions.
mod shared {
    use super::*;

    mod checkpointer {
        use super::*;
        in_llmfys_layout!(checkpointer {
            sessions_keep_apart,
            a_limit_gives_nobody_an_id_of_another_session,
        });
    }

    mod concurrency {
        use super::*;
        in_llmfys_layout!(concurrency { a_save_after_the_latest_takes_no_id_of_another_session });
    }
}

/// Where each session has its own.
mod partitioned {
    use super::*;
    in_partitions!(partitioned {
        sessions_with_the_same_ids_never_meet,
        hostile_ids_never_meet,
        all_keys_of_a_session_have_one_hash_tag,
    });
}

/// Where both layouts are, which on a cluster is in one slot.
mod both {
    use super::*;
    in_both_layouts!(partitioned {
        layouts_keep_apart_under_one_prefix_and_under_nested_ones,
        documents_are_the_same_in_both_layouts,
    });

    mod moving {
        use super::*;
        in_both_layouts!(moving { what_is_moved_to_the_other_layout_is_what_it_was });
        promises!(memory_component moving Memory Component Llmfy { what_is_moved_to_the_other_layout_is_what_it_was });
        promises!(redis_component moving Redis Component Llmfy { what_is_moved_to_the_other_layout_is_what_it_was });
    }
}
