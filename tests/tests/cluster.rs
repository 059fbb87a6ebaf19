//! A Redis Cluster of three masters with a replica each: the whole contract in
//! both layouts, slots that move, and masters that die.

use checkpointer_tests::contract::{self, Kind, Place};
use checkpointer_tests::subject::Mode;

macro_rules! contract_on {
    ($kind:ident: $($part:ident: { $($promise:ident,)* })*) => {
        $($(
            #[tokio::test(flavor = "multi_thread")]
            async fn $promise() {
                let place = Place::new(Kind::$kind).await;
                contract_on!(@ $part $promise place);
            }
        )*)*
    };
    (@ store $promise:ident $place:ident) => { contract::store::$promise(&$place).await };
    (@ quota $promise:ident $place:ident) => { contract::quota::$promise(&$place).await };
    (@ $part:ident $promise:ident $place:ident) => {
        contract::$part::$promise(&$place, Mode::Component).await
    };
}

mod llmfy_in_a_slot {
    use super::*;

    contract_on! {
        RedisSlot:
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
            what_is_deleted_is_gone,
            a_value_is_no_index_and_an_index_no_value,
            a_scan_takes_its_prefix_literally,
            refuses_what_it_cannot_keep,
            of_many_at_once_one_wins,
        }
        checkpointer: {
            a_saved_checkpoint_is_loaded_as_it_was,
            sessions_keep_apart,
            clear_all_clears_one_prefix_and_no_other,
        }
    }
}
