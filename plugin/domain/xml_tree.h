// Reading and changing libvirt's XML. What is not changed comes out as it went in: white space, comments, the kind of quotes.
#pragma once

#include <pugixml.hpp>
#include <string>

namespace vh {

/// Parses XML. Throws std::runtime_error when the text is not well-formed, or its root is not <root>.
pugi::xml_document parseXml(const std::string& text, const std::string& root);

/// The document as text; `like` is what it was parsed from, whose quotes it gets.
std::string printXml(const pugi::xml_document& document, const std::string& like);

/// A new child element behind `after`, or behind all others when there is none; on a line of its own where the others have one.
pugi::xml_node insertChild(pugi::xml_node parent, pugi::xml_node after, const std::string& name);

/// Sets an attribute, which is made if need be. True if that changed anything.
bool setAttribute(pugi::xml_node element, const std::string& name, const std::string& value);

/// The value of an attribute of a child, as in `<target dev='vda'/>`; empty without.
std::string childAttribute(pugi::xml_node element, const std::string& child, const std::string& attribute);

std::string attribute(pugi::xml_node element, const std::string& name);

/// The name that libvirt gives to a device of a running domain, such as `virtio-disk0`; empty without.
std::string aliasOf(pugi::xml_node device);

}  // namespace vh
