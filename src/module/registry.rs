//! Every module, one line each, in alphabetic order.

use crate::module::Module;

/// All modules.
pub const MODULES: &[&Module] = &[
    &super::acl::MODULE,
    &super::apk::MODULE,
    &super::apt::MODULE,
    &super::apt_key::MODULE,
    &super::apt_repository::MODULE,
    &super::archive::MODULE,
    &super::assemble::MODULE,
    &super::async_status::MODULE,
    &super::authorized_key::MODULE,
    &super::blockinfile::MODULE,
    &super::capabilities::MODULE,
    &super::command::COMMAND,
    &super::copy::MODULE,
    &super::cron::MODULE,
    &super::cron::CRONVAR,
    &super::deb822_repository::MODULE,
    &super::dpkg_selections::DEBCONF,
    &super::dnf::MODULE,
    &super::dpkg_selections::SELECTIONS,
    &super::fetch::MODULE,
    &super::file::MODULE,
    &super::find::MODULE,
    &super::get_url::MODULE,
    &super::getent::MODULE,
    &super::git::MODULE,
    &super::group::MODULE,
    &super::hostname::MODULE,
    &super::htpasswd::MODULE,
    &super::ini_file::MODULE,
    &super::modprobe::BLACKLIST,
    &super::lineinfile::MODULE,
    &super::modprobe::MODULE,
    &super::mount::MODULE,
    &super::observe::MODULE,
    &super::package::MODULE,
    &super::package_facts::MODULE,
    &super::pam_limits::MODULE,
    &super::patch::MODULE,
    &super::ping::MODULE,
    &super::pip::MODULE,
    &super::replace::MODULE,
    &super::script::SCRIPT,
    &super::service::MODULE,
    &super::service::SERVICE_FACTS,
    &super::setup::SETUP,
    &super::command::SHELL,
    &super::docker_compose_v2::MODULE,
    &super::docker_container::MODULE,
    &super::docker_container::PODMAN,
    &super::docker_image::MODULE,
    &super::docker_login::MODULE,
    &super::docker_network::MODULE,
    &super::docker_volume::MODULE,
    &super::expect::MODULE,
    &super::gem::MODULE,
    &super::haproxy::MODULE,
    &super::mysql_db::MODULE,
    &super::mysql_query::MODULE,
    &super::mysql_user::MODULE,
    &super::npm::MODULE,
    &super::openssl_csr::MODULE,
    &super::openssl_dhparam::MODULE,
    &super::openssl_privatekey::MODULE,
    &super::pacman::MODULE,
    &super::postgresql_db::MODULE,
    &super::postgresql_ext::MODULE,
    &super::postgresql_privs::MODULE,
    &super::postgresql_query::MODULE,
    &super::postgresql_user::MODULE,
    &super::rpm_key::MODULE,
    &super::slurp::MODULE,
    &super::snap::MODULE,
    &super::stat::MODULE,
    &super::synchronize::MODULE,
    &super::sysctl::MODULE,
    &super::systemd::MODULE,
    &super::tempfile::MODULE,
    &super::template::MODULE,
    &super::timezone::MODULE,
    &super::unarchive::MODULE,
    &super::uri::MODULE,
    &super::user::MODULE,
    &super::wait_for::MODULE,
    &super::x509_certificate::MODULE,
    &super::yum_repository::MODULE,
    &super::zypper::MODULE,
];

/// The module that a playbook calls `name`: its full name, an alias, or its short name.
pub fn find(name: &str) -> Option<&'static Module> {
    let is = |full: &str| full == name || full.rsplit('.').next() == Some(name);
    let legacy = name.strip_prefix("ansible.legacy.").unwrap_or(name);
    MODULES.iter().copied().find(|module| module.name == name || module.aliases.contains(&name)).or_else(
        || {
            if legacy.contains('.') {
                return None;
            }
            let is = |full: &str| is(full) || full.rsplit('.').next() == Some(legacy);
            MODULES
                .iter()
                .copied()
                .find(|module| is(module.name) || module.aliases.iter().any(|alias| is(alias)))
        },
    )
}
