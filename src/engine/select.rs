//! `--tags` and `--skip-tags`: which items of a tree are left.

use std::sync::Arc;

use crate::engine::shared::Shared;
use crate::playbook::{Block, Item, Play, tags};
use crate::value::Value;

/// The items that the run's tags choose; a block of which nothing is left is left out. Tasks that the loader
/// made (flushes) stay.
pub fn by_tags(shared: &Shared, play: &Play, items: Vec<Item>) -> Vec<Item> {
    let options = &shared.options;
    items
        .into_iter()
        .filter_map(|item| match item {
            Item::Task(task) => {
                if task.implicit && task.action == "ansible.builtin.meta" {
                    return Some(Item::Task(task));
                }
                let rendered: Vec<Value> = task
                    .keywords
                    .tags
                    .iter()
                    .map(|tag| shared.render_static(tag, &play.vars).unwrap_or_else(|_| tag.clone()))
                    .collect();
                tags::selected(&tags::words(&rendered), &options.tags, &options.skip_tags)
                    .then_some(Item::Task(task))
            }
            Item::Block(block) => {
                let inner = by_tags(shared, play, block.block.clone());
                let rescue = by_tags(shared, play, block.rescue.clone());
                let always = by_tags(shared, play, block.always.clone());
                let left = !inner.is_empty() || !always.is_empty();
                left.then(|| {
                    Item::Block(Arc::new(Block {
                        id: block.id,
                        name: block.name.clone(),
                        origin: block.origin.clone(),
                        block: inner,
                        rescue,
                        always,
                        role: block.role.clone(),
                    }))
                })
            }
        })
        .collect()
}
