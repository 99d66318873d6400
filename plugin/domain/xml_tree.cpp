#include "plugin/domain/xml_tree.h"

#include <sstream>
#include <stdexcept>

namespace vh {
namespace {

bool isBlank(pugi::xml_node node) {
    return node.type() == pugi::node_pcdata && std::string(node.value()).find_first_not_of(" \t\r\n") == std::string::npos;
}

/// The line break and the spaces before an element's children, or empty where they share a line.
std::string indentOfChildren(pugi::xml_node element) {
    for (pugi::xml_node child : element.children())
        if (isBlank(child) && child.next_sibling()) return child.value();
    return "";
}

pugi::xml_node lastElement(pugi::xml_node parent) {
    pugi::xml_node last = parent.last_child();
    while (last && last.type() != pugi::node_element) last = last.previous_sibling();
    return last;
}

}  // namespace

pugi::xml_document parseXml(const std::string& text, const std::string& root) {
    constexpr unsigned everything = pugi::parse_default | pugi::parse_comments | pugi::parse_pi | pugi::parse_declaration |
                                    pugi::parse_doctype | pugi::parse_ws_pcdata;
    // pugixml takes a zero byte for the end of the text.
    if (text.find('\0') != std::string::npos) throw std::runtime_error("XML with a zero byte");
    pugi::xml_document document;
    const pugi::xml_parse_result result = document.load_buffer(text.data(), text.size(), everything, pugi::encoding_utf8);
    if (!result)
        throw std::runtime_error("no well-formed XML: " + std::string(result.description()) + " at byte " +
                                 std::to_string(result.offset));
    const std::string found = document.document_element().name();
    if (found != root) throw std::runtime_error("XML of a <" + found + ">, expected a <" + root + ">");
    return document;
}

std::string printXml(const pugi::xml_document& document, const std::string& like) {
    const pugi::xml_node root = document.document_element();
    const std::size_t firstQuote = like.find_first_of("'\"", like.find('=', static_cast<std::size_t>(root.offset_debug())));
    const bool single = firstQuote == std::string::npos || like[firstQuote] == '\'';
    std::ostringstream out;
    root.print(out, "", pugi::format_raw | (single ? pugi::format_attribute_single_quote : 0U), pugi::encoding_utf8);
    // What is around the root keeps its white space, which pugixml leaves out.
    const std::size_t endTag = like.rfind("</" + std::string(root.name()));
    const std::size_t end = endTag == std::string::npos ? std::string::npos : like.find('>', endTag);
    return like.substr(0, static_cast<std::size_t>(root.offset_debug()) - 1) + out.str() +
           (end == std::string::npos ? "" : like.substr(end + 1));
}

pugi::xml_node insertChild(pugi::xml_node parent, pugi::xml_node after, const std::string& name) {
    std::string indent = indentOfChildren(parent);
    if (!after) after = lastElement(parent);
    if (after) {
        pugi::xml_node child = parent.insert_child_after(name.c_str(), after);
        if (!indent.empty()) parent.insert_child_before(pugi::node_pcdata, child).set_value(indent.c_str());
        return child;
    }
    // An element without children, whose own line tells how far in they belong.
    const std::string outer = indentOfChildren(parent.parent());
    pugi::xml_node child = parent.prepend_child(name.c_str());
    if (outer.empty()) return child;
    if (indent.empty()) indent = outer + "  ";
    parent.insert_child_before(pugi::node_pcdata, child).set_value(indent.c_str());
    if (!child.next_sibling()) parent.append_child(pugi::node_pcdata).set_value(outer.c_str());
    return child;
}

bool setAttribute(pugi::xml_node element, const std::string& name, const std::string& value) {
    pugi::xml_attribute attribute = element.attribute(name.c_str());
    if (attribute && attribute.value() == value) return false;
    if (!attribute) attribute = element.append_attribute(name.c_str());
    attribute.set_value(value.c_str());
    return true;
}

std::string childAttribute(pugi::xml_node element, const std::string& child, const std::string& attribute) {
    return element.child(child.c_str()).attribute(attribute.c_str()).value();
}

std::string attribute(pugi::xml_node element, const std::string& name) {
    return element.attribute(name.c_str()).value();
}

std::string aliasOf(pugi::xml_node device) {
    return childAttribute(device, "alias", "name");
}

}  // namespace vh
