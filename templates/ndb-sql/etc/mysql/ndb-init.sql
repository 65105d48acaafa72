ALTER USER IF EXISTS 'root'@'localhost' IDENTIFIED BY '{{secrets.ndb_root_password}}';
