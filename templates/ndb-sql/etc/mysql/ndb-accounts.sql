-- Rendered by the config agent. Run by each SQL node, first and when it has changed; can be run again. Accounts with
-- NDB_STORED_USER are kept by the data nodes, and are the same on all SQL nodes.
CREATE USER IF NOT EXISTS 'ndb-check'@'localhost' IDENTIFIED BY '{{secrets.ndb_check_password}}';
ALTER USER 'ndb-check'@'localhost' IDENTIFIED BY '{{secrets.ndb_check_password}}';
CREATE DATABASE IF NOT EXISTS `{{ndb.app_database}}`;
CREATE USER IF NOT EXISTS '{{ndb.app_user}}'@'%' IDENTIFIED BY '{{secrets.ndb_app_password}}';
ALTER USER '{{ndb.app_user}}'@'%' IDENTIFIED BY '{{secrets.ndb_app_password}}';
GRANT ALL PRIVILEGES ON `{{ndb.app_database}}`.* TO '{{ndb.app_user}}'@'%';
GRANT NDB_STORED_USER ON *.* TO '{{ndb.app_user}}'@'%';
{{#ndb.admin}}
CREATE USER IF NOT EXISTS 'cloud_admin'@'%' IDENTIFIED BY '{{secrets.galera_admin_password}}';
ALTER USER 'cloud_admin'@'%' IDENTIFIED BY '{{secrets.galera_admin_password}}';
GRANT ALL PRIVILEGES ON *.* TO 'cloud_admin'@'%' WITH GRANT OPTION;
GRANT NDB_STORED_USER ON *.* TO 'cloud_admin'@'%';
{{/ndb.admin}}
{{^ndb.admin}}
DROP USER IF EXISTS 'cloud_admin'@'%';
{{/ndb.admin}}
