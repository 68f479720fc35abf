"""The vocabulary: module paths, tags, module trees, and the patterns that select modules."""

from optimum_htp.hierarchy.calls import CallTree, ModuleCall
from optimum_htp.hierarchy.chosen_modules import ModulePatterns
from optimum_htp.hierarchy.hierarchy import Hierarchy
from optimum_htp.hierarchy.patterns import ModulePattern
from optimum_htp.hierarchy.root import Root, Roots, merged_roots
from optimum_htp.hierarchy.tags import (
    SOURCES,
    ModulePath,
    NodeKey,
    NodeTag,
    NodeTags,
    common_ancestor,
    escape_name,
    root_tags,
    split_tag,
    tag_ancestors,
    tag_class,
    tag_module_path,
)
from optimum_htp.hierarchy.tree import ModuleInfo, ModuleTree, name_for_caller, tree_of_tags
